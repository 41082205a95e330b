#!/usr/bin/env python3
"""install_test.py BUILD MODEL: installs BUILD into a new prefix and follows docs/api.md from empty folders, in C++ and
in C: the files it prints, find_package, the first answer. Then the same for C with pkg-config."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "api.md"
BUILD, MODEL = sys.argv[1:3]


def files_of(section):
    """{name: text} of the files that a section of the tour prints."""
    text = DOCS.read_text(encoding="utf-8")
    begin = text.index(f"\n## {section}\n")
    body = text[begin : text.find("\n## ", begin + 1)]
    return dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", body, re.DOTALL))


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BUILD, "--prefix", str(cls.prefix), "--strip")

    def follow(self, section):
        folder = self.folder / section.replace(" ", "_")
        folder.mkdir()
        files = files_of(section)
        self.assertEqual(len(files), 2, files)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        run("cmake", "-B", "build", f"-DCMAKE_PREFIX_PATH={self.prefix}", cwd=folder)
        run("cmake", "--build", "build", cwd=folder)
        self.assert_answers(str(folder / "build" / "hello"))

    def assert_answers(self, program):
        self.assertRegex(run(program, MODEL), r"\[0 of \d+ tokens reused\]")
        refused = subprocess.run([program, "/nowhere.gguf"], capture_output=True, text=True, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"^error: .*/nowhere\.gguf.*\n$")

    def test_from_cpp(self):
        self.follow("From C++")

    def test_from_c(self):
        self.follow("From C")

    def test_from_c_with_pkg_config(self):
        if shutil.which("pkg-config") is None:
            self.skipTest("pkg-config is not installed")
        library = next(self.prefix.rglob("dalsegno.pc")).parent
        flags = run("pkg-config", "--cflags", "--libs", "dalsegno", env={**os.environ, "PKG_CONFIG_PATH": str(library)})
        source = self.folder / "main.c"
        source.write_text(files_of("From C")["main.c"], encoding="utf-8")
        program = str(self.folder / "hello")
        run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", str(source), "-o", program, *flags.split(),
            f"-Wl,-rpath,{library.parent}")  # fmt: skip
        self.assert_answers(program)

    def test_the_program_is_there(self):
        self.assertIn("0.", run(str(self.prefix / "bin" / "dalsegno"), "--version"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
