#!/usr/bin/env python3
"""in_new_folder.py PROGRAM ARGS...: runs the program with a new, empty folder as its last argument."""

import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    sys.exit(subprocess.run([*sys.argv[1:], folder], check=False).returncode)
