"""Processes that parse for a daemon, and programs in their place that tell what they may do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

#: Begins a spy: the modules of the tests, and the errors of what it tries.
TRIES = """
import json, os, re, socket, sys, time
sys.path[:] = json.loads(sys.argv[1])

def tried(what, *args):
    try:
        what(*args)
    except OSError as error:
        return error.errno
    return "done"

def field(status, name):
    return re.search(f"^{name}:\\s*(.*)$", status, re.M)[1].split()

def limit(limits, name):
    return re.search(f"Max {name} +([0-9]+) +([0-9]+)", limits).groups()

def descriptors():
    links = {fd: f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    return {fd: os.readlink(link) for fd, link in links.items() if os.path.exists(link)}
"""


def program(code: str) -> list[str]:
    """Return a program that stands in for a parser's: `out(bytes)` is its answer."""
    start = "import os, signal\nout = lambda b: os.write(1, b)\n"
    return [sys.executable, "-I", "-c", start + code]


@pytest.fixture
def open_secret(tmp_path: Path) -> Iterator[str]:
    """A file that the daemon has open, in a way that other programs would inherit."""
    path = tmp_path / "database"
    path.write_text("hunter2")
    with path.open() as file:
        os.set_inheritable(file.fileno(), True)
        yield str(path)


def processes_of(daemon: int, module: bytes = b"egg_files.child") -> list[int]:
    """Return the ids of the processes of a module that parse for a process now."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (path / "stat").read_text().rpartition(") ")[2].split()[1]
            if int(parent) == daemon and module in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def is_confined(pid: int) -> bool:
    """Return whether a process has a filter of system calls."""
    with suppress(OSError):
        return "Seccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
    return False


def lives(pid: int) -> bool:
    """Return whether a process has not ended; one that nobody has waited for has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(") ")[2][0] not in "ZX"
