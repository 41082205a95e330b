#!/usr/bin/env python3
"""exports_test.py LIBRARY: fails unless the shared library exports the functions of dalsegno.h, each with a version,
and nothing else."""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VERSION_NODE = re.compile(r"DALSEGNO_\d+")


def declared():
    text = (ROOT / "include" / "dalsegno.h").read_text(encoding="ascii")
    return set(re.findall(r"\b(dalsegno_[a-z0-9_]+)\(", text))


def complaints(lines):
    found = set()
    for line in lines:
        kind, symbol = line.split()[-2:]
        name, _, version = symbol.replace("@@", "@").partition("@")
        if VERSION_NODE.fullmatch(name) and kind == "A":
            continue
        if name not in declared():
            yield f"exports {symbol}, which dalsegno.h does not declare"
        elif not VERSION_NODE.fullmatch(version):
            yield f"{name} has no version"
        found.add(name)
    for name in sorted(declared() - found):
        yield f"does not export {name}"


def main():
    if shutil.which("nm") is None:
        print("nm is not installed")
        return 77
    nm = subprocess.run(["nm", "-D", "--defined-only", sys.argv[1]], capture_output=True, text=True, check=True)
    lines = nm.stdout.splitlines()
    found = list(complaints(lines))
    for line in found:
        print(line)
    print(f"{len(lines)} symbols, {len(found)} complaints")
    return 1 if found or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
