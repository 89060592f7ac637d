"""The last lines of the daemon's own log, read back from where it is written. Blocking."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["MAX_LINES", "JournalSource", "LogFileSource", "LogUnavailable", "tail", "tail_of"]

#: Lines that are asked for at most, and the bytes of a file in which they are looked for.
MAX_LINES = 500
MAX_BYTES = 1024 * 1024
#: Seconds that journalctl may take: a Panel waits for five.
JOURNAL_TIMEOUT = 3.0

_UNIT = re.compile(r"/([^/]+\.service)(?:/|$)")


class LogUnavailable(Exception):
    """The log cannot be read back. The message says why."""


def tail(path: str, lines: int, limit: int = MAX_BYTES) -> list[str]:
    """Return the last lines of a file, of its last `limit` bytes. Raises `OSError`."""
    # Not blocking: a pipe without a writer would hang.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return tail_of(file, lines, limit)


def tail_of(file: IO[bytes], lines: int, limit: int = MAX_BYTES) -> list[str]:
    """Return the last lines of an open file. Raises `OSError`."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - limit, 0))
    found = file.read(limit).decode("utf-8", "replace").split("\n")
    if not found[-1]:
        found.pop()
    # The first may be the end of a longer one.
    return (found[1:] if size > limit else found)[-lines:] if lines else []


class LogFileSource:
    """The log file at `path`, and the one that it was rotated from as long as it has few lines."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, lines: int) -> list[str]:
        """Return the last lines. Raises `LogUnavailable`."""
        try:
            found = tail(self._path, lines)
            if len(found) < lines and os.path.exists(f"{self._path}.1"):
                found = tail(f"{self._path}.1", lines - len(found)) + found
        except OSError as error:
            raise LogUnavailable(f"{self._path}: {error.strerror}") from error
        return found


class JournalSource:
    """The entries of this service in systemd's journal, those of earlier daemons included."""

    def __init__(self, cgroup: Callable[[], str] = Path("/proc/self/cgroup").read_text) -> None:
        self._cgroup = cgroup

    def __call__(self, lines: int) -> list[str]:
        """Return the last lines. Raises `LogUnavailable`."""
        command = ["journalctl", "--quiet", "--no-pager", "--output=short-iso", f"--lines={lines}"]
        try:
            ran = subprocess.run(  # noqa: S603 - no text from outside is in it
                [*command, self._selection()],
                capture_output=True,
                timeout=JOURNAL_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LogUnavailable(f"journalctl took more than {JOURNAL_TIMEOUT:g} s") from None
        except OSError as error:
            raise LogUnavailable(f"journalctl: {error.strerror}") from error
        if ran.returncode:
            reason = ran.stderr.decode("utf-8", "replace").strip() or f"status {ran.returncode}"
            raise LogUnavailable(f"journalctl: {reason}")
        return ran.stdout.decode("utf-8", "replace").splitlines()[-lines:]

    def _selection(self) -> str:
        """Return what selects this daemon's entries: its unit, by its control group."""
        try:
            found = _UNIT.findall(self._cgroup())
        except OSError:
            found = []
        return f"--unit={found[-1]}" if found else "--identifier=wingsd"
