"""Logs, read back: the daemon's own, and the files in `system.log_directory`. Blocking.

Calagopus' Panel lists and shows the latter. Only regular files of the directory itself are among
them, and no names with a slash, links or pipes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import attrs

from wingsd.errors import BadRequest, LogFileNotFound, StorageError

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


def file_log(path: str, lines: int) -> list[str]:
    """Return the last lines of a log file, and of the one that it was rotated from.

    The latter as long as the file has few lines. Raises `LogUnavailable`.
    """
    try:
        found = tail(path, lines)
        if len(found) < lines and os.path.exists(f"{path}.1"):
            found = tail(f"{path}.1", lines - len(found)) + found
    except OSError as error:
        raise LogUnavailable(f"{path}: {error.strerror}") from error
    return found


def journal_log(
    lines: int, cgroup: Callable[[], str] = Path("/proc/self/cgroup").read_text
) -> list[str]:
    """Return the last lines of this service in systemd's journal, with those of earlier daemons.

    `cgroup` returns the control group that the service is found by. Raises `LogUnavailable`.
    """
    command = ["journalctl", "--quiet", "--no-pager", "--output=short-iso", f"--lines={lines}"]
    try:
        unit = _UNIT.findall(cgroup())
    except OSError:
        unit = []
    command.append(f"--unit={unit[-1]}" if unit else "--identifier=wingsd")
    try:
        ran = subprocess.run(  # noqa: S603 - no text from outside is in it
            command, capture_output=True, timeout=JOURNAL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise LogUnavailable(f"journalctl took more than {JOURNAL_TIMEOUT:g} s") from None
    except OSError as error:
        raise LogUnavailable(f"journalctl: {error.strerror}") from error
    if ran.returncode:
        reason = ran.stderr.decode("utf-8", "replace").strip() or f"status {ran.returncode}"
        raise LogUnavailable(f"journalctl: {reason}")
    return ran.stdout.decode("utf-8", "replace").splitlines()[-lines:]


#: Files in a list, the latest; and bytes of a compressed file that are looked through.
MAX_FILES = 1000
MAX_UNPACKED = 64 * 1024 * 1024

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COMPRESSIONS = {
    ".gz": "gz",
    ".xz": "xz",
    ".lz": "lzip",
    ".bz2": "bz2",
    ".lz4": "lz4",
    ".zst": "zstd",
}
_READERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gz": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


@attrs.frozen
class StoredLog:
    """A log file: its size in bytes, its compression by its name, and when it was written."""

    name: str
    compression_type: str
    size: int
    last_modified: str

    @classmethod
    def written_at(cls, name: str, size: int, seconds: float) -> StoredLog:
        """Return a file that was written at this Unix time."""
        when = datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")
        return cls(name, _compression(name), size, when)


def stored_logs(directory: str) -> list[StoredLog]:
    """Return the files of a directory, the oldest first; none where it is missing."""
    found: list[tuple[float, str, int]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                # A name that is no text could not be asked for.
                if stat.S_ISREG(status.st_mode) and entry.name.isprintable():
                    found.append((status.st_mtime, entry.name, status.st_size))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.reading(f"{directory}: {error.strerror}") from error
    latest = sorted(found)[-MAX_FILES:]
    return [StoredLog.written_at(name, size, seconds) for seconds, name, size in latest]


def read_log(directory: str, name: str, lines: int) -> list[str]:
    """Return the last lines of a file. Raises `LogFileNotFound`, `BadRequest`."""
    with _opened(directory, name) as file:
        kind = _compression(name)
        if kind == "none":
            return tail_of(file, lines)
        if kind not in _READERS:
            raise BadRequest(f"this node cannot show a log compressed by {kind}")
        return list(_last(_READERS[kind](file), lines))


def _compression(name: str) -> str:
    return _COMPRESSIONS.get(os.path.splitext(name)[1], "none")


@contextmanager
def _opened(directory: str, name: str) -> Iterator[IO[bytes]]:
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise LogFileNotFound
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            descriptor = os.open(name, _OPEN, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError:
        raise LogFileNotFound from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LogFileNotFound
    with open(descriptor, "rb") as file:
        yield file


def _last(file: IO[bytes], lines: int) -> Iterator[str]:
    """Yield the last lines of a compressed file; of a huge one, those near its beginning."""
    kept: deque[bytes] = deque()
    size = read = 0
    try:
        while read < MAX_UNPACKED and (line := file.readline(MAX_BYTES)):
            read += len(line)
            size += len(line)
            kept.append(line)
            while len(kept) > lines or size > MAX_BYTES:
                size -= len(kept.popleft())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadRequest("this log is damaged", str(error)) from error
    return (line.decode("utf-8", "replace").rstrip("\r\n") for line in kept)
