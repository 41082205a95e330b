#!/usr/bin/env python3
"""kernel_symbols.py [BUILD]: fails when the object file of a CPU level defines a symbol that other files could share.
An inline function compiled with a level's flags is a weak symbol; the linker may keep that copy for everyone, and a
CPU without the level then meets an illegal instruction. So a level's object may define only local symbols and the
functions of its own namespace. BUILD is the build folder; without it, the folder of $DALSEGNO_BINARY."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

LEVELS = ("avx2", "avx512", "neon")
SHARED = set("WwVvu")  # nm: weak, weak object, unique global
HARMLESS = "DW.ref."  # a pointer for the unwinder, no code


def level_objects(build):
    for level in LEVELS:
        for path in sorted(build.rglob(f"*_{level}.cpp.o")):
            yield level, path


def complaints(level, symbols):
    """symbols: the lines of `nm --defined-only --demangle` for one object of `level`."""
    for line in symbols:
        kind, name = line.split(maxsplit=2)[1:]
        if name.startswith(HARMLESS):
            continue
        if kind in SHARED:
            yield f"defines {name}, which other files may share"
        elif kind.isupper() and not re.match(rf"dalsegno::{level}::", name):
            yield f"defines {name}, which is not in dalsegno::{level}"


def main():
    if shutil.which("nm") is None:
        print("nm is not installed")
        return 77
    where = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.environ.get("DALSEGNO_BINARY", ""))
    if not where:
        print("usage: kernel_symbols.py BUILD")
        return 2
    build = pathlib.Path(where)
    checked = 0
    found = []
    for level, path in level_objects(build):
        nm = subprocess.run(["nm", "--defined-only", "--demangle", str(path)], capture_output=True, text=True, check=True)
        found += [f"{path.name}: {reason}" for reason in complaints(level, nm.stdout.splitlines())]
        checked += 1
    for line in found:
        print(line)
    print(f"{checked} objects, {len(found)} complaints")
    return 1 if found or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
