"""The past of servers, for which this process asks the daemon.

Its answers are datagrams, with the descriptor of a copy of a file, or of a list of entries.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING

import attrs

from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.past import Past, PastDirectoryListing, PastFile
from wingsd.filesystem.paths import ServerPath
from wingsd.sftp.messages import (
    ANSWER_HEAD,
    MAX_ANSWER,
    PastCall,
    PastClosed,
    PastWanted,
    read_entries,
    unpack_entries,
    unpack_error,
)

if TYPE_CHECKING:
    from wingsd.sftp.server.access import SessionAccess
    from wingsd.sftp.server.main import DaemonLink

EACH = 4
"""Requests of one server that wait for the daemon at a time."""

#: Seconds between two looks whether the session is still open.
_LOOK_EVERY = 1.0


@attrs.define(eq=False, repr=False)
class _Answer:
    """The bytes of the answer to `request`, and its descriptor, -1 for none."""

    request: int
    data: bytes
    fd: int


class PastAnswers:
    """The daemon's answers, by the socket `answers`. Made in the loop that reads it."""

    def __init__(self, answers: socket.socket, link: DaemonLink) -> None:
        self._answers = answers
        self._link = link
        self._numbers = count(1)
        self._waiting: dict[int, Future[_Answer]] = {}
        asyncio.get_running_loop().add_reader(answers.fileno(), self._read)

    def ask(self, access: SessionAccess, call: PastCall, path: ServerPath) -> _Answer:
        """Return the answer about a path, whose descriptor is the caller's to close.

        Blocking, from any thread. Raises the error that is the answer, and Forbidden when the
        session is closed.
        """
        number, answer = next(self._numbers), Future[_Answer]()
        self._waiting[number] = answer
        wanted = PastWanted(number, access.connection, call, bytes(path).decode("latin-1"))
        self._link.post(wanted)
        while True:
            try:
                found = answer.result(_LOOK_EVERY)
            except TimeoutError:
                if access.is_closed() and answer.cancel():
                    self._waiting.pop(number, None)
                    access.check_open(changes=False)
            else:
                return found

    def closed(self, request: int) -> None:
        """Report that the copy of an answer is closed. From any thread."""
        self._link.post(PastClosed(request))

    def _read(self) -> None:
        try:
            data, fds, *_ = socket.recv_fds(self._answers, MAX_ANSWER, 1)
        except BlockingIOError:
            return
        if not data:  # the daemon has ended
            asyncio.get_running_loop().remove_reader(self._answers.fileno())
            return
        number, is_refused = ANSWER_HEAD.unpack_from(data)
        fd = fds[0] if fds else -1
        answer = self._waiting.pop(number, None)
        if answer is None or not answer.set_running_or_notify_cancel():
            if fd >= 0:
                os.close(fd)
                self.closed(number)
        elif is_refused:
            answer.set_exception(unpack_error(data[ANSWER_HEAD.size :]))
        else:
            answer.set_result(_Answer(number, data[ANSWER_HEAD.size :], fd))


class PastThreads:
    """Threads for requests that read the past: at most `EACH` of one server run at a time.

    Its users wait for each other, and not those of other servers.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "wingsd-sftp-past")
        self._lock = Lock()
        self._running: Counter[object] = Counter()
        self._waiting: dict[object, deque[tuple[Future[bytes], Callable[[], bytes]]]] = {}

    def submit(self, server: object, work: Callable[[], bytes]) -> Future[bytes]:
        """Call `work` in a thread when it is the server's turn; return its result."""
        result = Future[bytes]()
        with self._lock:
            self._waiting.setdefault(server, deque()).append((result, work))
            if self._running[server] >= EACH:
                return result
            self._running[server] += 1
        self._threads.submit(self._run, server)
        return result

    def _run(self, server: object) -> None:
        with self._lock:
            result, work = self._waiting[server].popleft()
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
        with self._lock:
            if not self._waiting[server]:
                self._running[server] -= 1
                if not self._running[server]:
                    del self._running[server], self._waiting[server]
                return
        self._threads.submit(self._run, server)  # behind those of other servers


@attrs.frozen(eq=False, repr=False)
class AskedPast(Past):
    """The past of a session's server."""

    _answers: PastAnswers
    _access: SessionAccess

    def _entry(self, data: bytes) -> Entry:
        (entry,), _ = unpack_entries(data)
        return entry

    def stat(self, path: ServerPath) -> Entry:
        """Return the entry of a path."""
        return self._entry(self._answers.ask(self._access, PastCall.STAT, path).data)

    def directory(self, path: ServerPath) -> Directory:
        """Return a directory, to be listed."""
        found = self._answers.ask(self._access, PastCall.LIST, path)
        return PastDirectoryListing(
            path, self._entry(found.data), read_entries(found.fd), found.fd
        )

    def open_file(self, path: ServerPath) -> OpenFile:
        """Open a copy of a regular file."""
        found = self._answers.ask(self._access, PastCall.OPEN, path)
        ended = partial(self._answers.closed, found.request)
        return PastFile(found.fd, self._entry(found.data), ended)

    def link_text(self, path: ServerPath) -> bytes:
        """Return the text of a symlink."""
        return self._answers.ask(self._access, PastCall.LINK, path).data

    def real_path(self, path: ServerPath) -> ServerPath:
        """Return the path without the symlinks that lead to its directory."""
        found = self._answers.ask(self._access, PastCall.REAL, path)
        return ServerPath.from_bytes(found.data)
