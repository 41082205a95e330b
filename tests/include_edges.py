#!/usr/bin/env python3
"""include_edges.py [ROOT]: fails when a folder includes what does not stand below it on the ladder, when an
include is not qualified by its folder, when the public API leans on more than the standard library, or when a
source file grows past 600 lines."""

import pathlib
import re
import sys

MOST_LINES = 600
# The C interface is one header, so that another language binds one file.
LONG = {"include/dalsegno.h"}

# What each folder may include beside itself and the public API. `folder/file` allows one file of a folder.
LADDER = {
    "base": set(),
    "tensor": {"base"},
    "kernels": {"base/float_state.hpp", "tensor"},
    "backend": {"base", "kernels", "tensor"},
    "gguf": {"base", "tensor"},
    "text": {"base"},
    "model": {"base", "tensor", "backend", "gguf"},
    "cache": {"base", "tensor"},
    "store": {"base", "cache/tier.hpp"},
    "sampling": {"base", "kernels"},
    "runtime": {"base", "tensor", "kernels", "backend", "gguf", "text", "model", "cache", "store", "sampling"},
    "server": {"base"},
    "cli": {"base"},
    "bindings": {"base"},
}
# `src/bridge` has no folder of its own: the C ABI header of bridge/ is text's alone.
BRIDGE_READER = "text"
C_API = "dalsegno.h"

CPP = {".cpp", ".hpp", ".h", ".c", ".inc"}
SOURCES = CPP | {".rs", ".py", ".sh", ".cmake"}
SKIPPED = {".git", "build", "target", "golden", "third_party"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def source_files(root):
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        if any(part in SKIPPED or part.startswith("build-") for part in below.parts) or not path.is_file():
            continue
        if path.suffix in SOURCES or below.parts[0] == "scripts":
            yield path, below


def folder_of(below):
    """The ladder's name for a file, or None where anything may be included (tests, bench, fuzz)."""
    if below.parts[0] == "src":
        return below.parts[1]
    return {"include": "include", "bindings": "bindings"}.get(below.parts[0])


def complaint(root, folder, quote, target):
    """Why `folder` may not include `target`, or None."""
    head = target.split("/")[0]
    known = head in LADDER or head == "dalsegno"
    if target == C_API:
        return None if folder == "bindings" else "the C interface is for those who bind it"
    if quote == "<":
        if known and "/" in target:
            return "our own headers are included in quotes"
        if folder == "include" and not re.fullmatch(r"[a-z_]+|std(def|int)\.h", target):
            return "the public API leans on the standard library alone"
        return None
    if head == "dalsegno":
        return None if (root / "include" / target).is_file() else "there is no such public header"
    if folder == "include":
        return "the public API stands below every folder"
    if head == "bridge" or target.startswith("dalsegno_bridge"):
        return None if folder == BRIDGE_READER else f"only src/{BRIDGE_READER} sees the bridge"
    if not known:
        return "includes are qualified by their folder"
    if not (root / target if head == "bindings" else root / "src" / target).is_file():
        return "there is no such header"
    if head == folder or head in LADDER[folder] or target in LADDER[folder]:
        return None
    return f"{folder} may include {', '.join(sorted(LADDER[folder])) or 'no other folder'}"


def check_includes(root, path, below, folder):
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        reason = complaint(root, folder, *match.groups()) if match else None
        if reason:
            found.append(f"{below}:{number}: includes {match.group(2)}: {reason}")
    return found


def check(root):
    """Every complaint about the tree at `root`, one line each."""
    found = []
    for path, below in source_files(root):
        lines = path.read_bytes().count(b"\n")
        if lines > MOST_LINES and str(below) not in LONG:
            found.append(f"{below}: {lines} lines, more than {MOST_LINES}")
        folder = folder_of(below)
        if path.suffix not in CPP or folder is None:
            continue
        if folder != "include" and folder not in LADDER:
            found.append(f"{below}: src/{folder} has no place on the ladder")
            continue
        found += check_includes(root, path, below, folder)
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    found = check(root)
    for line in found:
        print(line)
    checked = sum(1 for _ in source_files(root))
    print(f"{checked} files, {len(found)} complaints")
    return 1 if found or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
