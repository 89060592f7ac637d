"""One channel of an SSH connection: the subsystem `sftp`, or a sentence why it is refused.

Requests are done one after the other, in the order in which they came, a batch at a time: in the
thread of the connection, or in another one if a request may last, so that the client's signs of
life are answered meanwhile. Requests wait as the bytes that came, and in both directions no more
waits than a bound: 100,000 small requests would be ten times their size as objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from asyncssh.packet import SSHPacket, UInt32

from wingsd.errors import InvalidData
from wingsd.sftp.messages import FrameReader
from wingsd.sftp.server import packets
from wingsd.sftp.server.operations import SftpOperations

if TYPE_CHECKING:
    from wingsd.sftp.server.access import SessionAccess
    from wingsd.sftp.server.connection import SshConnection
    from wingsd.sftp.server.main import SftpServer

NO_SHELL = "This node has no shell: use an SFTP client, or the console in the Panel."
NO_COMMANDS = "This node runs no commands: use an SFTP client, or scp without the option -O."
#: Bytes that the client of a connection's first channel may send at first before it is told that
#: they were read; and later as many requests as this of the size of its largest one, up to that
#: many bytes: uploads over a long line take a large window, and small requests never do. A further
#: channel has a share: the second a half, the third a third, so that ten of them take no more than
#: three times as much as one. The same holds for all that follows.
FIRST_WINDOW = 1 << 18
_REQUESTS, _WINDOW = 64, 1 << 21
#: Bytes of requests that wait, above which the client's window is not widened.
_HIGH = 1 << 17
#: Bytes of answers that are sent at once.
_BATCH_BYTES = 1 << 18
#: Bytes of answers that wait for the client's window, and pieces of them, above which no more are
#: made.
_SEND_BUFFER, _SEND_PIECES = 1 << 17, 1 << 10
#: What may last as long as a tree is large; and what is written to the disk by `fsync`.
_LONG = frozenset((packets.RMDIR, packets.RENAME, packets.EXTENDED))


class SftpChannel(asyncssh.SSHServerSession[bytes]):
    """A channel, with the `access` of its connection.

    `share` is the number of channels that the connection has with this one.
    """

    def __init__(
        self,
        access: SessionAccess,
        server: SftpServer,
        connection: SshConnection,
        share: int,
    ) -> None:
        self._access = access
        self._server = server
        self._connection = connection
        self._operations: SftpOperations | None = None
        self._share = share
        self._chan: asyncssh.SSHServerChannel[bytes]
        #: Bytes that the client may still send, those that it may after it was told so, and those
        #: of its largest request.
        self._window = self._most = self._largest = 0
        #: Whether it has one of the large windows.
        self._has_large = False
        #: What the client has sent, and whether a whole request may wait in it.
        self._frames = FrameReader(packets.MAX_PACKET)
        self._waits = False
        self._refusal = ""
        #: Whether it has begun; one that was refused meanwhile never does.
        self.was_made = False
        self._busy = self._at_end = self._exited = self._lost = False
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
        self._connection.note_packet()
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
            self._frames.feed(payload[4:])
            self._waits = True
        self.work()

    def _widen(self) -> None:
        """Let the client send more, when it has sent half of what it may."""
        most = min(self._largest * _REQUESTS, _WINDOW // self._share)
        if most > self._most and (self._has_large or self._server.windows.acquire(blocking=False)):
            self._has_large, self._most = True, most
        if (
            self._window < self._most // 2
            and not (self._waits and len(self._frames) > _HIGH // self._share)
            and not self._chan.is_closing()
        ):
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
        self._operations = SftpOperations(self._access, self._server)

    def eof_received(self) -> bool:
        """Answer what waits, and then close the channel."""
        self._at_end = self._at_eof = True
        self.work()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close what is open, when the batch that is under way has ended."""
        self._lost = True
        self._unsent.clear()
        self.work()

    # The work

    def work(self) -> None:
        """Answer what waits, as far as the client takes answers."""
        if self._unsent:
            self._connection.gather(self._flush)
        while self._waits and not (self._busy or self._lost) and self._takes_answers():
            self._answer_some()
        if not self._lost:
            self._widen()
        if self._busy:
            return
        if self._lost:
            self._close()
        elif self._at_end and not (self._waits or self._unsent or self._exited):
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
        """Do requests until their answers are many bytes, or up to one that may last."""
        assert self._operations is not None  # noqa: S101
        answer = self._operations.answer
        made: list[bytes] = []
        size = done = 0
        lasting = None
        try:
            for packet in self._frames:
                self._largest = max(self._largest, len(packet))
                if packet[0] in _LONG:
                    lasting = packet
                    break
                done += len(packet)
                made.append(answer(packet))
                size += len(made[-1])
                if size >= _BATCH_BYTES:
                    break
            else:
                self._waits = False
        except InvalidData:
            self._fail()
        if made:
            self._send(made, done)
        if lasting is not None:
            answering = self._server.threads.submit(answer, lasting)
            self._busy = True  # not where no thread can be started, which ends the connection
            answered = partial(self._answered, len(lasting), answering)
            answering.add_done_callback(lambda _: self._connection.owner.call(answered))

    def _fail(self) -> None:
        """Close the channel of a client that sends what is no SFTP."""
        self._at_end, self._waits, self._status = True, False, 1

    def _answered(self, size: int, answering: Future[bytes]) -> None:
        """Send the answer to a request that a thread has done, and go on."""
        self._busy = False
        try:
            answer = answering.result()
        except InvalidData:
            self._fail()
        else:
            if not self._lost and not self._exited:
                self._send([answer], size)
        self.work()

    def _send(self, made: list[bytes], done: int) -> None:
        """Send answers to requests of `done` bytes."""
        data = b"".join(made)
        connection = self._connection
        if self._unsent or len(data) > min(self._granted, self._packet) or connection.holds:
            self._unsent.append(memoryview(data))
            self._unsent_bytes += len(data)
            connection.gather(self._flush)
        else:
            self._granted -= len(data)
            connection.send_data(self._number, data)
        self._server.count(done, len(data))

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

    def _close(self) -> None:
        operations, self._operations = self._operations, None
        self._busy = True  # for ever
        if self._has_large:
            self._server.windows.release()
        if operations is not None:
            operations.close()
        self._connection.owner.channel_ended(self)
