"""The programs that are measured side by side: where they come from and how one row is asked of them.

Every one is a command that understands `--model FILE --threads N --row TEST:TOKENS:DEPTH:BATCH --repeat N --json`
and prints that row as a line of JSON, as `dalsegno bench` does."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "bench"
OURS = "dalsegno"
BINARY = os.environ.get("DALSEGNO_BINARY", str(ROOT / "build" / "release" / "dalsegno"))
NATIVE = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF"


class Failed(Exception):
    """An engine gave no figure for a row; the message says why."""


@dataclasses.dataclass
class Engine:
    name: str
    command: list
    version: str
    note: str = ""
    settings: tuple = ()  # of which the fastest is chosen for each row before it is measured

    def run(self, model, threads, row, repeat, setting=None):
        words = [*self.command, "--model", str(model), "--threads", str(threads), "--row", row_text(row)]
        words += ["--repeat", str(repeat), "--json", *(["--setting", setting] if setting else [])]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode != 0 or not lines:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Failed(said[-1] if said else f"it ended with {done.returncode} and said nothing")
        result = json.loads(lines[-1])
        if "unsupported" in result:
            raise Failed(result["unsupported"])
        if any(result[key] != row[key] for key in ("test", "tokens", "depth", "batch")):
            raise Failed(f"it measured another row: {row_text(result)}")
        return result


def row_text(row):
    return ":".join(str(row[key]) for key in ("test", "tokens", "depth", "batch"))


def parse_row(text):
    test, tokens, depth, batch = text.split(":")
    return {"test": test, "tokens": int(tokens), "depth": int(depth), "batch": int(batch)}


def environment(name, pip_options=(), variables=None):
    """The interpreter of an environment of its own that holds bench/requirements-NAME.txt, made on first use."""
    requirements = BENCH / f"requirements-{name}.txt"
    folder = ROOT / "build" / "peers" / name
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    if not done.exists() or done.read_text() != requirements.read_text():
        print(f"Installing {requirements.read_text().splitlines()[0]} into {folder}; this can take minutes.", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        words = [python, "-m", "pip", "install", "--quiet", *pip_options, "-r", requirements]
        subprocess.run(words, check=True, env=dict(os.environ, **(variables or {})))
        shutil.copy(requirements, done)
    return str(python)


def pinned(name):
    return (BENCH / f"requirements-{name}.txt").read_text().splitlines()[0]


def llamacpp(python):
    python = python or environment("llamacpp", ["--no-binary", "llama-cpp-python"], {"CMAKE_ARGS": NATIVE})
    return Engine("llama.cpp", [python, str(BENCH / "peers" / "llamacpp_peer.py")], pinned("llamacpp"),
                  "compiled for this machine; f16 K/V; flash attention on or off, whichever is faster",
                  ("flash", "plain", "flash-unified", "plain-unified"))


def openvino(python):
    python = python or environment("openvino")
    return Engine("OpenVINO GenAI", [python, str(BENCH / "peers" / "openvino_peer.py")], pinned("openvino"),
                  "continuous batching; its default precision and 8-bit K/V")


def dalsegno():
    shown = subprocess.run([BINARY, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return Engine(OURS, [BINARY, "bench"], ", ".join(shown), "bf16 K/V")


def find_engines(peers, llama_python, openvino_python, also):
    """Ours first. also: NAME=COMMAND texts."""
    engines = [dalsegno()]
    if "llamacpp" in peers:
        engines.append(llamacpp(llama_python))
    if "openvino" in peers:
        engines.append(openvino(openvino_python))
    for text in also:
        name, _, command = text.partition("=")
        engines.append(Engine(name, shlex.split(command), "given with --also"))
    return engines


def model_path(name):
    """As the program itself finds models, but by the whole name only."""
    if os.path.sep in name or name.endswith(".gguf"):
        return pathlib.Path(name)
    data = os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share"
    folder = os.environ.get("DALSEGNO_MODELS") or pathlib.Path(data) / "dalsegno" / "models"
    return pathlib.Path(folder) / f"{name}.gguf"
