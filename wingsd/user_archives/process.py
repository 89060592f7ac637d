"""Parses an archive in a process of its own, and yields its entries and contents. Blocking."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, cast

import attrs

from wingsd.sandbox import launch
from wingsd.user_archives.frames import (
    ArchiveRefused,
    InvalidFrames,
    ParsedArchive,
    Reason,
    parsed,
)
from wingsd.user_archives.kinds import NameHint

_MIB = 1 << 20
#: Seconds between two looks at whether it was cancelled.
_LOOK = 0.25
#: Bytes that the pipe holds; the default, 64 KiB, has both processes wait for each other more.
_PIPE = _MIB


@attrs.frozen
class ParserBounds:
    """The limits of the process of one archive.

    `memory` is address space in bytes, `cpu_seconds` CPU time, to which comes one second for each
    MiB of the archive; after `silence` seconds without any frame, and after `total` seconds, it is
    ended.
    """

    memory: int = 512 * _MIB
    cpu_seconds: int = 300
    silence: float = 900.0
    total: float = 12 * 3600.0


BOUNDS = ParserBounds()


class ParserFailed(Exception):
    """The process ended in a way that says nothing of the archive; the text says how."""


@attrs.define(eq=False, repr=False)
class ArchiveProcess:
    """Parses the archive of `size` bytes that is open as the descriptor `archive`.

    The list is read no further when its files have more than `most` bytes, None for no bound.
    `check` is called at least every quarter of a second; what it raises ends the process.
    """

    archive: int
    _size: int
    _hint: NameHint
    _most: int | None
    _check: Callable[[], None]
    _bounds: ParserBounds = BOUNDS
    _cpu_seconds: int = attrs.field(init=False)
    program: Sequence[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._cpu_seconds = self._bounds.cpu_seconds + self._size // _MIB
        self.program = launch.command(
            "wingsd.user_archives.child",
            self._cpu_seconds,
            self._bounds.memory,
            -1 if self._most is None else self._most,
            int(self._hint),
        )

    def contents(self) -> Iterator[ParsedArchive]:
        """Yield what the archive holds. To be closed.

        Raises `ArchiveRefused`, `ParserFailed`, and OSError where no process can be started.
        """
        process = launch.start(self.program, self.archive)
        stdout = cast("IO[bytes]", process.stdout)
        try:
            yield from parsed(_Pipe(stdout.fileno(), self._check, self._bounds).read)
        except EOFError:
            status = process.wait()
            if status == -signal.SIGXCPU:
                raise ArchiveRefused(
                    Reason.EXCESSIVE,
                    f"its parser needs more than {self._cpu_seconds} s of CPU time",
                ) from None
            raise ParserFailed(f"its parser ended by {launch.ending(status)}") from None
        except InvalidFrames as error:
            raise ParserFailed(f"the process that parsed it sent {error}") from error
        finally:
            process.kill()
            process.wait()
            stdout.close()


class _Pipe:
    """The output of the process."""

    def __init__(self, fd: int, check: Callable[[], None], bounds: ParserBounds) -> None:
        with suppress(OSError):  # above what users may have in all pipes
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
        self._fd = fd
        self._check = check
        self._bounds = bounds
        #: One that was taken over may send frames without an end, and take no CPU time.
        self._end = time.monotonic() + bounds.total
        self._buffer = bytearray()
        self._next_check = 0.0
        self._waiting = select.poll()
        self._waiting.register(fd, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes. Raises EOFError, `ParserFailed`, and what `check` does."""
        while len(self._buffer) < size:
            self._wait()
            block = os.read(self._fd, _PIPE)
            if not block:
                raise EOFError
            self._buffer += block
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _wait(self) -> None:
        end = time.monotonic() + self._bounds.silence
        while True:
            now = time.monotonic()
            if now >= self._end:
                raise ParserFailed(f"its parser had no end after {self._bounds.total:g} s")
            if now >= self._next_check:
                self._check()
                self._next_check = now + _LOOK
            if self._waiting.poll(_LOOK * 1000):
                return
            if now >= end:
                raise ParserFailed(f"its parser did nothing for {self._bounds.silence:g} s")
