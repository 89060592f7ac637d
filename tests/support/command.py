"""Runs `wingsctl` as a process."""

from __future__ import annotations

import sys
from pathlib import Path

#: The command's words.
WINGSCTL = (sys.executable, "-m", "wingsd.cli")


def installed(directory: Path) -> str:
    """Put a `wingsctl` into a directory, for shells that look for it; return its path."""
    path = directory / "wingsctl"
    path.write_text(f'#!/bin/sh\nexec {" ".join(WINGSCTL)} "$@"\n')
    path.chmod(0o755)
    return str(path)
