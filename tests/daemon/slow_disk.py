"""Runs a program of Python on a disk that stands still: `slow_disk.py STILL WAITING PROGRAM ...`.

While the file STILL has the name of a system call, syncfs or rmdir, it does not return. Each that
waits has a line in the file WAITING.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wingsd.filesystem import syscalls

still, waiting = Path(sys.argv[1]), Path(sys.argv[2])


def stands_still(name: str) -> bool:
    with suppress(FileNotFoundError):
        return still.read_text() == name
    return False


def waits(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        if stands_still(name):
            with waiting.open("a") as file:
                file.write(f"{name}\n")
        while stands_still(name):
            time.sleep(0.01)
        return call(*args, **kwargs)

    return slow


libc: Any = syscalls._libc
libc.syncfs = waits("syncfs", libc.syncfs)
os.rmdir = waits("rmdir", os.rmdir)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
