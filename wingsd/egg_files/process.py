"""Parses each egg file in a child process, with limits of time and memory.

The files belong to the server's users, and the parsers are large libraries: some take quadratic
time, some a hundred times a file's size in memory. A child process keeps that from the daemon.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from threading import Lock
from typing import IO, cast

import attrs

from wingsd.egg_files.changes import Change, Refused
from wingsd.egg_files.child import MAX_HEADER, RewriteAnswer, RewriteRequest
from wingsd.egg_files.formats import Rewritten, format_of, quoted
from wingsd.sandbox import launch

__all__ = ["BOUNDS", "RewriteBounds", "RewriteJob", "child"]

_CHUNK = 1 << 16


@attrs.frozen
class RewriteBounds:
    """The limits for the egg files of one start.

    `cpu_seconds` (CPU time) and `memory` (bytes of address space) bound the process of each file,
    `seconds` the time of all of them together. A start is slow that has used more CPU time than
    `slow_seconds`. A quick job stops then, or after `quick_seconds`.
    """

    cpu_seconds: int = 10
    memory: int = 512 << 20
    seconds: float = 20.0
    slow_seconds: float = 2.0
    quick_seconds: float = 5.0


BOUNDS = RewriteBounds()


def child(cpu_seconds: int, memory: int) -> list[str]:
    """Return the command that answers one request within these bounds."""
    return launch.command("wingsd.egg_files.child", cpu_seconds, memory)


class RewriteJob:
    """The egg files of one start, parsed one after the other by `program`.

    A `quick` job stops when it turns out to be slow, and is then `unfinished`. `rewrite` blocks,
    and is called by one thread; `cancel` can be called by any other.
    """

    def __init__(
        self, bounds: RewriteBounds, program: Sequence[str] | None = None, *, quick: bool = False
    ) -> None:
        #: Whether a file reached a limit, or all of them took long.
        self.slow = False
        #: Whether files are left for a job that is not quick.
        self.unfinished = False
        #: The bytes by which all files together have grown, negative if they have shrunk.
        self.growth = 0
        self._bounds = bounds
        self._quick = quick
        self._cpu_limit, self._seconds = bounds.cpu_seconds, bounds.seconds
        if quick:
            self._cpu_limit = max(math.ceil(bounds.slow_seconds), 1)
            self._seconds = bounds.quick_seconds
        self._program = program or child(self._cpu_limit, bounds.memory)
        self._deadline: float | None = None
        self._cpu_seconds = 0.0
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def rewrite(self, parser: str, data: bytes, changes: Sequence[Change]) -> Rewritten:
        """Return the file's bytes with the changes made.

        Raises Refused for what its parser refuses, for a file that takes more than the bounds, and
        after `cancel`; OSError where no process can be started.
        """
        if self._quick and self._cpu_seconds > self._bounds.slow_seconds:
            self.unfinished = True
        if self.unfinished:
            raise Refused("it is left for another job")
        limit = format_of(parser).limit
        request = RewriteRequest(parser, data, changes)
        message = self._run(request.encode(), MAX_HEADER + limit, parser)
        answer = RewriteAnswer.decode(message, request, limit)
        self._cpu_seconds += answer.cpu_seconds
        self.slow |= self._cpu_seconds > self._bounds.slow_seconds
        if answer.rewritten is None:
            raise Refused(answer.refused)
        self.growth += len(answer.rewritten.data) - len(data)
        return answer.rewritten

    def cancel(self) -> None:
        """End the process that runs, and start no other."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                self._process.kill()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def process_id(self) -> int | None:
        """The id of the running process, None if there is none."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def _run(self, message: bytes, most: int, parser: str) -> bytes:
        """Run the program; return its answer of at most `most` bytes."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._seconds
        process = self._start(message)
        stdout = cast("IO[bytes]", process.stdout)
        status = None
        try:
            answer = self._read(stdout.fileno(), most)
            status = process.wait(self._left())
        except (TimeoutError, subprocess.TimeoutExpired):
            self.unfinished = self._quick
            raise Refused(
                f"the {self._seconds:g} s that a server's egg files may take are over"
            ) from None
        finally:
            self.slow |= status != 0
            process.kill()
            process.wait()
            stdout.close()
        if status == -signal.SIGXCPU:
            self.unfinished = self._quick
            raise Refused(f"its parser needs more than {self._cpu_limit} s of CPU time")
        if status:
            raise Refused(f"its parser, {quoted(parser)}, ended by {launch.ending(status)}")
        return answer

    def _start(self, message: bytes) -> subprocess.Popen[bytes]:
        with os.fdopen(os.memfd_create("egg-file"), "w+b") as stdin:
            stdin.write(message)
            stdin.seek(0)
            with self._lock:
                if self._cancelled:
                    raise Refused("the start was cancelled")
                self._process = launch.start(self._program, stdin)
                return self._process

    def _read(self, stdout: int, most: int) -> bytes:
        """Read to the end. Raises TimeoutError, and Refused for more than `most` bytes."""
        answer = bytearray()
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        while waiting.poll(self._left() * 1000):
            chunk = os.read(stdout, _CHUNK)
            if not chunk:
                return bytes(answer)
            answer += chunk
            if len(answer) > most:
                raise Refused("the process that parsed it sent too long an answer")
        raise TimeoutError

    def _left(self) -> float:
        return max((self._deadline or 0.0) - time.monotonic(), 0.0)
