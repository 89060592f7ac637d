"""A second process for a walk of many directories that are known: two cores look at twice as many.

It looks at them from the last one on, while this process walks from the first one. A directory is
then as either of them has found it; both begin after the walk has. Threads would not do: each look
is so short that they would wait for the interpreter's lock.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, cast

from wingsd.moves.walk_frames import WalkFrame, frames_in
from wingsd.sandbox import launch

__all__ = ["WalkProcess"]

_MIB = 1 << 20
#: Bytes that the pipe holds, and those that wait for the walk at most.
_PIPE, _MOST = _MIB, 64 * _MIB


class WalkProcess:
    """Looks at the directories `paths` below `root`, which are sorted as in a walk.

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
            self._process.kill()
            self._process.wait()
            self._output.close()
            self._process = None

    @property
    def _output(self) -> IO[bytes]:
        assert self._process is not None  # noqa: S101 - by the callers
        return cast("IO[bytes]", self._process.stdout)

    def _receive(self) -> None:
        while self._process is not None and self._waiting < _MOST:
            try:
                data = os.read(self._output.fileno(), _PIPE)
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
        program = launch.command("wingsd.moves.walk_child", root, file)
        process = launch.start(program, subprocess.DEVNULL, (root, file))
    finally:
        os.close(file)
    output = cast("IO[bytes]", process.stdout).fileno()
    os.set_blocking(output, False)
    with suppress(OSError):  # above what users may have in all pipes
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, _PIPE)
    return process
