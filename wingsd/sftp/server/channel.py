"""One channel of an SSH connection: the subsystem `sftp`, or a sentence why it is refused.

Requests are done one after the other, in the order in which they came, a batch at a time: in the
thread of the connection, or in another one if a request among them may last, so that the client's
signs of life are answered meanwhile. What waits is bounded in both directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from asyncssh.packet import SSHPacket, UInt32

from wingsd.sftp.server import answers, packets
from wingsd.sftp.server.operations import SftpOperations
from wingsd.sftp.server.packets import FrameReader, Init, PacketError, parse

if TYPE_CHECKING:
    from wingsd.sftp.server.access import SessionAccess
    from wingsd.sftp.server.connection import Site, SshConnection

__all__ = ["SftpChannel", "Traffic"]

NO_SHELL = "This node has no shell: use an SFTP client, or the console in the Panel."
NO_COMMANDS = "This node runs no commands: use an SFTP client, or scp without the option -O."
#: Bytes of requests that wait, above which the client's window is not widened and what comes is
#: kept as it is, and below which it goes on, in the first channel of a connection. A further one
#: has a share: the second a half, the third a third, so that ten of them take no more than three
#: times as much as one.
_HIGH, _LOW = 1 << 18, 1 << 17
#: Bytes of answers that are sent at once.
_BATCH_BYTES = 1 << 18
#: Bytes that Python takes for each request beside what is in it.
_OBJECT = 48
#: Bytes of answers that wait for the client's window, and pieces of them, above which no more are
#: made; the same holds for them.
_SEND_BUFFER, _SEND_PIECES = 1 << 19, 1 << 12
_FIRST_VERSION = 3
#: What may last as long as a tree is large; and what is written to the disk by `fsync`.
_LONG = frozenset((packets.RMDIR, packets.RENAME, packets.EXTENDED))


class Traffic:
    """The bytes since the process's start. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received = self._sent = 0

    def count(self, received: int, sent: int) -> None:
        """Count bytes of requests that were done, and of their answers."""
        with self._lock:
            self._received += received
            self._sent += sent

    @property
    def totals(self) -> tuple[int, int]:
        """The bytes of requests, and of answers."""
        with self._lock:
            return self._received, self._sent


class SftpChannel(asyncssh.SSHServerSession[bytes]):
    """A channel, with the `access` of its connection.

    `ended` is called when the channel is closed and nothing is done for it any more. `share` is
    the number of channels that the connection has with this one.
    """

    def __init__(
        self,
        access: SessionAccess,
        site: Site,
        connection: SshConnection,
        ended: Callable[[SftpChannel], None],
        share: int,
    ) -> None:
        self._access = access
        self._site = site
        self._connection = connection
        self._operations: SftpOperations | None = None
        self._ended = ended
        self._share = share
        self._chan: asyncssh.SSHServerChannel[bytes]
        #: Bytes that the client may still send, and those that it may at first.
        self._window = self._most = 0
        #: Whether the client is granted no more.
        self.is_paused = False
        self._frames = FrameReader()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._refusal = ""
        #: Whether it has begun; one that was refused meanwhile never does.
        self.was_made = False
        self._greeted = self._busy = self._at_end = self._exited = self._lost = False
        #: Whether the client has said that nothing more comes.
        self._at_eof = False
        #: Answers that are still to be sent, and their bytes.
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        #: The client's number of the channel; and the bytes that it takes now, and in one packet.
        self._number, self._granted, self._packet = connection.opening
        #: Bytes for which a packet is not held back.
        self._full = min(self._packet, max(self._granted // 4, 1))
        self._status = 0

    # The channel

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Begin."""
        self._chan = chan
        self.was_made = True
        self._window = self._most = chan.get_recv_window()
        self._asyncssh = chan.process_packet
        chan.process_packet = self._process  # type: ignore[method-assign,assignment]
        chan.log_received_packet = self._connection.log_received_packet  # type: ignore[method-assign]

    def _process(self, kind: int, number: int, packet: SSHPacket) -> bool | Awaitable[None]:
        """Handle a packet in place of asyncssh, or leave it to that.

        asyncssh keeps what comes while reading is paused in the pieces it came in: single bytes
        would take a hundred times their size. Here all is taken in at once, and paused is the
        widening of the client's window. It also keeps all variables that a client sends.
        """
        self._connection.unfinished = 0
        if kind == MSG_CHANNEL_DATA and not self._at_eof:
            self._take_in(packet.get_remaining_payload())
            return True
        if kind == MSG_CHANNEL_WINDOW_ADJUST and self._operations is not None:
            self._granted += packet.get_uint32()
            packet.check_end()
            self.work()
            return True
        if kind == MSG_CHANNEL_REQUEST:
            fields = SSHPacket(packet.get_remaining_payload())
            if fields.get_string() == b"env":
                if fields.get_boolean() and not self._chan.is_closing():
                    self._chan.send_packet(MSG_CHANNEL_FAILURE)
                return True
        return self._asyncssh(kind, number, packet)

    def _take_in(self, payload: bytes) -> None:
        """Take in a packet's data, with its length in front."""
        size = len(payload) - 4
        if size < 0 or size != int.from_bytes(payload[:4], "big"):
            raise asyncssh.ProtocolError("Data of another length than it says")
        if size > self._window:
            raise asyncssh.ProtocolError("Window exceeded")
        if self._chan.is_closing():
            return
        self._window -= size
        if self._operations is not None and not self._at_end:
            if self.is_paused:
                self._frames.keep(payload[4:])
                return
            try:
                self._divide(payload[4:])
            except PacketError:
                self._fail()
            self.work()
        if self._window < self._most // 2:
            self._widen()

    def _divide(self, data: bytes) -> None:
        """Divide data into requests, until many wait: a small one is four times as large then."""
        for packet in self._frames.feed(data):
            self._waiting.append(packet)
            self._waiting_bytes += len(packet) + _OBJECT
            if self._waiting_bytes > _HIGH // self._share:
                self.is_paused = True
                break

    def _widen(self) -> None:
        if not self.is_paused and not self._chan.is_closing():
            missing, self._window = self._most - self._window, self._most
            self._chan.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(missing))

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept SFTP only."""
        return subsystem == "sftp"

    def shell_requested(self) -> bool:
        """Accept it, to say that there is none."""
        self._refusal = NO_SHELL
        return True

    def exec_requested(self, command: str) -> bool:
        """Accept it, to say that none is run."""
        self._refusal = NO_COMMANDS
        if command.split(" ", maxsplit=1)[0].rpartition("/")[2] == "scp":
            # A client of the old protocol shows what follows this byte as an error.
            self._chan.write(b"\x02" + NO_COMMANDS.encode() + b"\n")
        return True

    def session_started(self) -> None:
        """Refuse a shell, or begin with SFTP."""
        if self._refusal:
            self._chan.write_stderr(self._refusal.encode() + b"\r\n")
            self._chan.exit(1)
            return
        self._operations = SftpOperations(self._access, self._site.budget, self._site.config)

    def eof_received(self) -> bool:
        """Answer what waits, and then close the channel."""
        self._at_end = self._at_eof = True
        self.work()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close what is open, when the batch that is under way has ended."""
        self._lost = True
        self._waiting.clear()
        self._unsent.clear()
        self.work()

    # The work

    def _fail(self) -> None:
        """Close the channel of a client that sends what is no SFTP."""
        self._at_end, self._status = True, 1
        self._waiting.clear()
        self._waiting_bytes = 0

    def work(self) -> None:
        """Answer what waits, as far as the client takes answers."""
        if self._unsent:
            self._flush()
        try:
            while self._waiting and not (self._busy or self._lost) and self._takes_answers():
                self._answer_some()
        except PacketError:
            self._fail()
        if self._busy:
            return
        if self._lost:
            self._close()
        elif self._at_end and not (self._waiting or self._unsent or self._exited):
            self._exited = True
            self._chan.exit(self._status)

    def _takes_answers(self) -> bool:
        """Return whether the client has not to read before it is answered again."""
        return not self._connection.holds and (
            not self._unsent
            or (
                self._unsent_bytes <= _SEND_BUFFER // self._share
                and len(self._unsent) <= _SEND_PIECES // self._share
            )
        )

    def _answer_some(self) -> None:
        """Do requests until their answers are many bytes, or one that may last."""
        made: list[bytes] = []
        size = done = 0
        while self._waiting and size < _BATCH_BYTES:
            if self._waiting[0][0] in _LONG:
                if not made:
                    self._busy = True
                    packet = self._waiting.popleft()
                    answered = partial(self._answered, len(packet))
                    self._site.threads.run(partial(self._answer, packet), answered)
                    return
                break
            packet = self._waiting.popleft()
            done += len(packet) + _OBJECT
            answer = self._answer(packet)
            size += len(answer)
            made.append(answer)
        self._send(made, done)

    def _answered(self, size: int, answer: Callable[[], bytes]) -> None:
        """Send the answer to a request that a thread has done, and go on."""
        self._busy = False
        if not self._lost and not self._exited:
            try:
                self._send([answer()], size + _OBJECT)
            except PacketError:
                self._fail()
        self.work()

    def _send(self, made: list[bytes], done: int) -> None:
        """Send answers to requests of `done` bytes."""
        self._waiting_bytes -= done
        data = b"".join(made)
        self._site.traffic.count(done - _OBJECT * len(made), len(data))
        connection = self._connection
        if self._unsent or len(data) > min(self._granted, self._packet) or connection.holds:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
            self._flush()
        else:
            self._granted -= len(data)
            connection.send_data(self._number, data)
        if self.is_paused and self._waiting_bytes < _LOW // self._share:
            self.is_paused = False
            self._divide(b"")
            self._widen()

    def _flush(self) -> None:
        """Send as much as the client takes, in full packets.

        asyncssh would copy all of it three times more, and fill a window that is widened by little
        with a short packet.
        """
        unsent = self._unsent
        while unsent and not self._connection.exchanges_keys:
            size = min(self._granted, self._packet)
            if size < min(self._full, self._unsent_bytes):
                break
            data = unsent.popleft()
            if len(data) > size:
                unsent.appendleft(data[size:])
                data = data[:size]
            self._granted -= len(data)
            self._unsent_bytes -= len(data)
            self._connection.send_data(self._number, data)

    def _answer(self, packet: bytes) -> bytes:
        operations = self._operations
        assert operations is not None  # noqa: S101
        if not self._greeted:
            return self._greet(packet)
        try:
            request = parse(packet)
        except PacketError as error:
            if error.request is None:
                raise
            return answers.status(error.request, answers.BAD_MESSAGE, str(error))
        if isinstance(request, Init):
            raise PacketError("SFTP begins a second time")
        try:
            return operations.answer(request)
        except Exception as error:
            self._site.fault(error)
            return answers.status(request.id, answers.FAILURE, "internal error of the node")

    def _greet(self, packet: bytes) -> bytes:
        request = parse(packet)
        if not isinstance(request, Init) or request.version < _FIRST_VERSION:
            raise PacketError("the first packet does not begin SFTP 3")
        self._greeted = True
        return answers.version()

    def _close(self) -> None:
        operations, self._operations = self._operations, None
        self._busy = True  # for ever
        if operations is not None:
            operations.close()
        self._ended(self)
