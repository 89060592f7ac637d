"""Rewrites the files that an egg names, each parsed in a child process.

A server's users may create symlinks, FIFOs or hard links there while the node runs as root. So
files are read and replaced through `ServerRoot`. A symlink to a file is followed by its text, and
only inside: what is replaced is the file, and not the link.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import IO, Any, cast

import attrs

from wingsd.egg_files.changes import Change, NotDone, quoted
from wingsd.egg_files.child import (
    MAX_HEADER,
    RewriteAnswer,
    RewriteRequest,
    Rewritten,
    format_of,
)
from wingsd.errors import FileMissing, FileTypeRefused, IsDirectory, StorageError, WingsdError
from wingsd.filesystem.paths import ServerPath, name_from_text
from wingsd.filesystem.root import ServerRoot
from wingsd.panel.schemas import ConfigurationFile, Replacement
from wingsd.sandbox import launch
from wingsd.util.text import display

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
        #: Whether `cancel` was called.
        self.cancelled = False

    def rewrite(self, parser: str, data: bytes, changes: Sequence[Change]) -> Rewritten:
        """Return the file's bytes with the changes made.

        Raises NotDone for what its parser refuses, for a file that takes more than the bounds, and
        after `cancel`; OSError where no process can be started.
        """
        if self._quick and self._cpu_seconds > self._bounds.slow_seconds:
            self.unfinished = True
        if self.unfinished:
            raise NotDone("it is left for another job")
        limit = format_of(parser).limit
        request = RewriteRequest(parser, data, changes)
        message = self._run(request.encode(), MAX_HEADER + limit, parser)
        answer = RewriteAnswer.decode(message, request, limit)
        self._cpu_seconds += answer.cpu_seconds
        self.slow |= self._cpu_seconds > self._bounds.slow_seconds
        if answer.rewritten is None:
            raise NotDone(answer.refused)
        self.growth += len(answer.rewritten.data) - len(data)
        return answer.rewritten

    def cancel(self) -> None:
        """End the process that runs, and start no other."""
        with self._lock:
            self.cancelled = True
            if self._process is not None:
                self._process.kill()

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
            raise NotDone(
                f"the {self._seconds:g} s that a server's egg files may take are over"
            ) from None
        finally:
            self.slow |= status != 0
            process.kill()
            process.wait()
            stdout.close()
        if status == -signal.SIGXCPU:
            self.unfinished = self._quick
            raise NotDone(f"its parser needs more than {self._cpu_limit} s of CPU time")
        if status:
            raise NotDone(f"its parser, {quoted(parser)}, ended by {launch.ending(status)}")
        return answer

    def _start(self, message: bytes) -> subprocess.Popen[bytes]:
        with os.fdopen(os.memfd_create("egg-file"), "w+b") as stdin:
            stdin.write(message)
            stdin.seek(0)
            with self._lock:
                if self.cancelled:
                    raise NotDone("the start was cancelled")
                self._process = launch.start(self._program, stdin)
                return self._process

    def _read(self, stdout: int, most: int) -> bytes:
        """Read to the end. Raises TimeoutError, and NotDone for more than `most` bytes."""
        answer = bytearray()
        waiting = select.poll()
        waiting.register(stdout, select.POLLIN)
        while waiting.poll(self._left() * 1000):
            chunk = os.read(stdout, _CHUNK)
            if not chunk:
                return bytes(answer)
            answer += chunk
            if len(answer) > most:
                raise NotDone("the process that parsed it sent too long an answer")
        raise TimeoutError

    def _left(self) -> float:
        return max((self._deadline or 0.0) - time.monotonic(), 0.0)


#: Linux's limit.
_MAX_LINKS = 40


def read(root: ServerRoot, name: str, limit: int) -> tuple[ServerPath, bytes | None]:
    """Return the file `name`, a path relative to the root, of at most `limit` bytes.

    That is its path without symlinks, and its bytes, None where it does not exist. Raises NotDone
    and the errors of `root`.
    """
    path = _resolved(root, name)
    try:
        with root.open_file(path) as file:
            size = file.entry.size
            data = file.read(limit + 1) if size <= limit else b""
    except FileMissing as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return path, None
        raise
    except (IsDirectory, FileTypeRefused):
        raise NotDone("it is not a regular file") from None
    if max(size, len(data)) > limit:
        raise NotDone(f"it is larger than {limit >> 10} KiB")
    return path, data


def _resolved(root: ServerRoot, name: str) -> ServerPath:
    """Return the path without symlinks, as the tree is now."""
    ahead = _parts(name_from_text(name))
    done = ServerPath()
    links = 0
    while ahead:
        part = ahead.pop()
        if part == b"..":
            if done.is_root:
                raise NotDone("it leads out of the server's directory")
            done = done.parent
            continue
        path = done.child(part)
        try:
            text = root.link_text(path)
        except (FileMissing, FileTypeRefused):
            # It is anything but a symlink, or does not exist.
            done = path
            continue
        links += 1
        if text.startswith(b"/"):
            link = display(bytes(path))
            raise NotDone(f"{link} is a symlink to an absolute path, which is not followed")
        if links > _MAX_LINKS:
            raise NotDone("its symlinks form a loop")
        ahead += _parts(text)
    if done.is_root:
        raise NotDone("it names no file")
    return done


def _parts(path: bytes) -> list[bytes]:
    """Return the components of a path, the first one last."""
    if b"\0" in path:
        raise NotDone("its name has a zero byte")
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


#: Gets a parser's name, a file's bytes and changes; returns the new bytes, or raises NotDone.
Parse = Callable[[str, bytes, Sequence[Change]], Rewritten]

_MAX_LINE = 500


def rewrite(
    open_root: Callable[[], ServerRoot],
    files: Sequence[ConfigurationFile],
    node: Mapping[str, Any],
    parse: Parse,
) -> list[str]:
    """Rewrite every file below a server's directory, and make those that are missing.

    `node` is the node's configuration as plain nested data in snake case, for `{{config.*}}`.
    `parse` makes the changes in a file's bytes. A file in which nothing has to change is not
    touched.

    Returns one line, for a person to read, for each file or replacement that could not be done.
    Such a file is left as it was, and the server starts all the same. Blocks; raises nothing for
    bad files or bad input.
    """
    try:
        with open_root() as root:
            return [line for file in files for line in _lines(root, file, node, parse)]
    except StorageError as error:
        return [f"its directory could not be opened: {error.detail}"]


def _lines(
    root: ServerRoot, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> Iterator[str]:
    name = quoted(file.file)
    try:
        for failure in _rewritten(root, file, node, parse):
            yield _line(f"{name}: {failure}")
    except NotDone as error:
        yield _line(f"{name} is left as it was: {error}")
    except WingsdError as error:
        yield _line(f"{name} is left as it was: {_reason(error)}")
    except Exception as error:
        # An unexpected failure of one file must not prevent the start.
        yield _line(f"{name} is left as it was: {type(error).__name__}: {error}")


def _reason(error: WingsdError) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return error.message.removesuffix(".")


def _line(text: str) -> str:
    """Return a text, which may quote a file or a library, as one line that is safe to show."""
    text = " ".join(text.split())[:_MAX_LINE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _rewritten(
    root: ServerRoot, file: ConfigurationFile, node: Mapping[str, Any], parse: Parse
) -> list[str]:
    path, data = read(root, file.file, format_of(file.parser).limit)
    changes, failures = _changes(file.replace, node)
    rewritten = parse(file.parser, data or b"", changes)
    if rewritten.data != data:
        root.write(path, [rewritten.data])
    return failures + rewritten.failures


def _changes(
    replacements: Sequence[Replacement], node: Mapping[str, Any]
) -> tuple[list[Change], list[str]]:
    changes, failures = [], []
    for replacement in replacements:
        try:
            changes.append(Change.from_replacement(replacement, node))
        except NotDone as error:
            failures.append(f"{quoted(replacement.match)}: {error}")
    return changes, failures
