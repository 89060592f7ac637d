"""Answers the SFTP process about the past of servers, which only the daemon can read.

A connection learns of its own server alone. The process decides what its user may see, as for
other files.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from itertools import islice

import attrs
from twisted.logger import Logger

from wingsd.errors import FileMissing, InvalidData, WingsdError
from wingsd.files.tasks import Lane
from wingsd.filesystem.past import PastFile, is_past
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.histories import HistoriesOnDemand, PastLane
from wingsd.sftp.messages import ANSWER_HEAD, PastCall, PastWanted, pack_entry, pack_error
from wingsd.sftp.sessions import SftpSessions
from wingsd.util.reactor import Reactor

#: Seconds until an answer is sent again that the socket did not take.
_PAUSE = 0.05
#: Bytes of entries that are written at once.
_PIECE = 64 << 10


@attrs.define(eq=False, repr=False)
class _Answer:
    """The bytes of an answer, and a descriptor if `fd` is not negative.

    `ended` is called when the copy that it is of is not used any more.
    """

    data: bytes
    fd: int = -1
    ended: Callable[[], object] | None = None

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@attrs.frozen(eq=False, repr=False)
class PastRequests:
    """Does what the SFTP process wants of the past; `most` entries of a directory are listed."""

    _sessions: SftpSessions
    _histories: HistoriesOnDemand
    _lane: Lane
    _most: int
    _reactor: Reactor
    #: Of copies that the process has open, by their requests, what is called at their end.
    _open: dict[int, Callable[[], object]] = attrs.field(factory=dict, init=False)
    _log = Logger()

    async def answer(self, wanted: PastWanted, answers: socket.socket) -> None:
        """Answer a request by a socket. Raises InvalidData for one that makes no sense."""
        try:
            call = PastCall(wanted.call)
            path = ServerPath.from_bytes(wanted.path.encode("latin-1"))
        except (ValueError, WingsdError) as error:
            raise InvalidData("a request for the past makes no sense") from error
        if not is_past(path):
            raise InvalidData("a request for the past is about another path")
        is_refused = True
        try:
            found = await self._found(wanted.connection, call, path)
            is_refused = False
        except WingsdError as error:
            found = _Answer(pack_error(error))
        except Exception:
            self._log.failure("sftp: a request for the past of a server failed")
            found = _Answer(pack_error(WingsdError("internal error of the node")))
        self._send(answers, wanted.request, is_refused, found)

    def closed(self, request: int) -> None:
        """Note that the process has closed the descriptor of an answer."""
        if (ended := self._open.pop(request, None)) is not None:
            ended()

    def all_closed(self) -> None:
        """Note that the process has ended."""
        for request in tuple(self._open):
            self.closed(request)

    async def _found(self, connection: int, call: PastCall, path: ServerPath) -> _Answer:
        server = self._sessions.server(connection)
        if server is None or not server.files.has_past:
            raise FileMissing(str(path))
        is_over = partial(self._is_over, connection)
        lane = PastLane(self._lane, self._histories, is_over)
        return await lane.run(server, partial(_read, call, path, self._most))

    def _is_over(self, connection: int) -> bool:
        return self._sessions.server(connection) is None

    def _send(
        self, answers: socket.socket, request: int, is_refused: bool, found: _Answer
    ) -> None:
        data = ANSWER_HEAD.pack(request, is_refused) + found.data
        fds = [found.fd] if found.fd >= 0 else []
        try:
            socket.send_fds(answers, [data], fds, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._reactor.callLater(_PAUSE, self._send, answers, request, is_refused, found)
            return
        except OSError:  # the process has ended
            if found.ended is not None:
                found.ended()
        else:
            if found.ended is not None:
                self._open[request] = found.ended
        found.close()


def _read(call: PastCall, path: ServerPath, most: int, root: ServerRoot) -> _Answer:
    match call:
        case PastCall.STAT:
            return _Answer(pack_entry(root.stat(path)))
        case PastCall.OPEN:
            with root.open_file(path) as file:
                found = _Answer(pack_entry(file.entry), os.dup(file.fileno()))
                if isinstance(file, PastFile):
                    found.ended = file.given_away()
                return found
        case PastCall.LINK:
            return _Answer(root.link_text(path))
        case PastCall.REAL:
            return _Answer(bytes(root.real_path(path)))
        case PastCall.LIST:
            return _listed(root, path, most)


def _listed(root: ServerRoot, path: ServerPath, most: int) -> _Answer:
    """Return a directory's own entry, and those in it as a file in memory."""
    with root.directory(path) as directory:
        found = _Answer(pack_entry(directory.own_entry()), os.memfd_create("past"))
        try:
            with open(found.fd, "wb", _PIECE, closefd=False) as file:
                file.writelines(map(pack_entry, islice(directory.entries(), most)))
        except BaseException:
            found.close()
            raise
        return found
