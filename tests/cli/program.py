"""Runs the program under test ($DALSEGNO_BINARY) and names what the tests need beside it."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("DALSEGNO_BINARY", str(ROOT / "build" / "release" / "dalsegno"))
EMULATOR = os.environ.get("DALSEGNO_EMULATOR", "").split()  # runs a binary for another CPU
GOLDEN = ROOT / "tests" / "golden"
TINY = GOLDEN / "tiny" / "llama-gqa.gguf"
SKIPPED = 77  # ctest shows such a test as skipped


def models_folder():
    data = os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share"
    return pathlib.Path(os.environ.get("DALSEGNO_MODELS") or pathlib.Path(data) / "dalsegno" / "models")


SMOLLM2 = models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = models_folder() / "gemma-3-270m-q4_k_m.gguf"


def need(model):
    """For a test file about a real model: without it the whole file is skipped."""
    if not model.is_file():
        print(f"skipped: {model} is not there; run: make models")
        sys.exit(SKIPPED)


def need_smollm2():
    need(SMOLLM2)


def need_gemma3():
    need(GEMMA3)


def golden_lines(name):
    with open(GOLDEN / name, encoding="ascii") as file:
        return [json.loads(line) for line in file]


class ProgramTest(unittest.TestCase):
    """A test of the program's face: its output, its errors, its exit status."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_program(self, *words, stdin="", env=None):
        command = [*EMULATOR, BINARY, *map(str, words)]
        if isinstance(stdin, str):
            stdin = stdin.encode("utf-8", "surrogateescape")
        environment = dict(os.environ, **(env or {}))
        return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=600, env=environment)

    def output(self, *words, stdin="", env=None):
        done = self.run_program(*words, stdin=stdin, env=env)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr.decode()}")
        return done.stdout.decode()

    def json_lines(self, *words, stdin="", env=None):
        return [json.loads(line) for line in self.output(*words, "--json", stdin=stdin, env=env).splitlines()]

    def one_json(self, *words, stdin="", env=None):
        values = self.json_lines(*words, stdin=stdin, env=env)
        self.assertEqual(len(values), 1, values)
        return values[0]

    def assert_error(self, status, words, *expected, stdin="", env=None):
        """`words` fail with one line `error: …` that says `expected`."""
        done = self.run_program(*words, stdin=stdin, env=env)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, status, f"{words}: {error}")
        lines = error.splitlines()
        self.assertTrue(lines, f"{words}: no error was shown")
        if status == 1:
            self.assertEqual(len(lines), 1, error)
        self.assertTrue(lines[0].startswith("error: "), error)
        for word in expected:
            self.assertIn(word, error)
        return error

    def ids_file(self, ids):
        path = self.folder / "ids.json"
        path.write_text(json.dumps(ids), encoding="ascii")
        return path
