"""A second process that shares a walk through many known directories, to use two cores.

It looks at them from the last one on (`main`), while this process walks from the first one. A
directory is then as either of them has found it; both begin after the walk has. Threads would not
do: each look is so short that they would wait for the interpreter's lock.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from typing import IO, BinaryIO, cast

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import OpenDirectories
from wingsd.filesystem.walk import Listing, small_listing
from wingsd.moves.seen_directories import SeenDirectories, WalkFrame, frames_in, stat_results
from wingsd.sandbox import launch

_MIB = 1 << 20
#: Bytes that the pipe holds, and those that wait for the walk at most.
_PIPE, _MOST = _MIB, 64 * _MIB


class WalkProcess:
    """Walks the directories `paths` below `root`, which are sorted as in a walk.

    `close` must be called. Where no process can be started, or it ends, nothing more is found.
    """

    def __init__(self, root: int, paths: Iterable[bytes]) -> None:
        self._buffer = bytearray()
        self._found: dict[bytes, tuple[WalkFrame, int]] = {}
        #: Bytes of what was found.
        self._waiting = 0
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError):
            self._process = _started(root, b"\0".join(paths))

    def take(self, path: bytes) -> WalkFrame | None:
        """Return what was found in a directory; None where it was not looked at yet."""
        self._receive()
        frame, size = self._found.pop(path, (None, 0))
        self._waiting -= size
        return frame

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with self._process:  # closes its output, and waits
                self._process.kill()
            self._process = None

    def _receive(self) -> None:
        while self._process is not None and self._waiting < _MOST:
            try:
                data = os.read(_output(self._process).fileno(), _PIPE)
            except BlockingIOError:
                return
            if not data:
                self.close()
                return
            self._buffer += data
            for frame, size in frames_in(self._buffer):
                self._found[frame.path] = frame, size
                self._waiting += size


def _started(root: int, paths: bytes) -> subprocess.Popen[bytes]:
    file = os.memfd_create("paths")
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(paths)
        os.lseek(file, 0, os.SEEK_SET)
        program = launch.command("wingsd.moves.walk_process", root, file)
        process = launch.start(program, subprocess.DEVNULL, (root, file))
    finally:
        os.close(file)
    output = _output(process).fileno()
    os.set_blocking(output, False)
    with suppress(OSError):  # above what users may have in all pipes
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE)
    return process


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", process.stdout)


def main(root: int, paths: int) -> None:
    """Look at directories below `root`; the file `paths` has their paths."""
    with open(paths, "rb") as file, open(1, "wb") as found:
        look(root, file.read().split(b"\0"), found)


def look(root: int, paths: Sequence[bytes], found: BinaryIO) -> None:
    """Look at directories, the last one first, and write frames of them to `found`.

    Of those that the other process has to look at nothing is written.
    """
    seen = SeenDirectories(lambda found: False)
    with closing(OpenDirectories(root, lambda path: None)) as directories:
        for path in reversed(paths):
            listing = small_listing(directories, tuple(path.split(b"/")))
            if listing is None or not _is_added(seen, path, listing):
                continue
            names = listing.files, listing.directories
            frame = WalkFrame(path, seen.digests[path], path in seen.linked, *names)
            found.write(frame.encode())
            found.flush()


def _is_added(seen: SeenDirectories, path: bytes, listing: Listing) -> bool:
    """Add a directory in which there are only files and directories; return whether it is one.

    Whether a symlink is settled, and what is left out, the other process has to tell.
    """
    if listing.symlinks or listing.others:
        return False
    vanished: list[bytes] = []
    try:
        entries = stat_results(listing, lambda name, reason: vanished.append(name))
    except StorageError:
        return False
    seen.add(path, listing, entries)
    return not vanished and path not in seen.noted
