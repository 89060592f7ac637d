"""A file system of a few MiB, in memory; it needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["small_disk"]


@contextmanager
def small_disk(path: Path, mebibytes: int = 1) -> Iterator[Path]:
    """Mount one at a directory within the `with` statement."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={mebibytes}m"
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(path)], check=True)
