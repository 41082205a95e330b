#!/usr/bin/env python3
"""python_install_test.py BUILD: makes a wheel of what BUILD holds, installs it into a fresh environment, and runs
examples/python there on a tiny model. Run by the interpreter that has the build requirements."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(sys.argv[1]).resolve()
PIP = ("-m", "pip", "--disable-pip-version-check", "-q")
INSTALLED = "import importlib.metadata as m; print(*(one.name for one in m.distributions()))"
# Every module that importing the package brings in, less Python's own.
IMPORTED = """
import sys
import dalsegno
print(*sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        folder = pathlib.Path(holder.name)
        run(sys.executable, *PIP, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder),
            "-C", f"cmake.define.DALSEGNO_BUILT={BUILD}", "-C", f"build-dir={folder}/build")  # fmt: skip
        cls.wheel = next(folder.glob("dalsegno-*.whl"))
        run(sys.executable, "-m", "venv", str(folder / "fresh"))
        cls.python = str(folder / "fresh" / "bin" / "python")
        run(cls.python, *PIP, "install", str(cls.wheel))
        cls.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run_fresh(self, *arguments):
        return run(self.python, *arguments, cwd=tempfile.gettempdir(), env=self.environment)

    def test_it_needs_numpy_and_nothing_else(self):
        names = set(self.run_fresh("-c", INSTALLED).split()) - {"pip", "setuptools", "wheel"}
        self.assertEqual(names, {"dalsegno", "numpy"})
        imported = {name for name in self.run_fresh("-c", IMPORTED).split() if not name.startswith("_")}
        self.assertLessEqual(imported, {"dalsegno", "numpy", "sitecustomize", "usercustomize"})

    def test_the_wheel_holds_stubs_and_libraries_but_no_tests(self):
        names = zipfile.ZipFile(self.wheel).namelist()
        for wanted in ("dalsegno/py.typed", "dalsegno/_dalsegno.pyi", "dalsegno/__init__.py"):
            self.assertIn(wanted, names)
        self.assertFalse([name for name in names if "test" in name or name.endswith((".hpp", ".a"))])

    def test_nothing_that_is_linked_is_missing_or_outside(self):
        site = self.run_fresh("-c", "import dalsegno, os; print(os.path.dirname(dalsegno.__file__))").strip()
        module = next(pathlib.Path(site).glob("_dalsegno*.so"))
        for line in run("ldd", str(module)).splitlines():
            name = line.split()[0].rsplit("/", 1)[-1]
            self.assertNotIn("not found", line)
            if not name.startswith(("linux-vdso", "ld-linux", "libc.", "libm.", "libstdc++", "libgcc_s")):
                self.assertIn(site, line)

    def test_examples_run(self):
        examples = sorted((ROOT / "examples" / "python").glob("*.py"))
        self.assertTrue(examples)
        for example in examples:
            with self.subTest(example.name):
                out = self.run_fresh(str(example), str(BUILD / "tiny_chat.gguf"))
                self.assertTrue(out.strip(), example.name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
