"""One channel of an SSH connection: the subsystem `sftp`, or a sentence why it is refused.

Requests are done one after the other, in the order in which they came, a batch at a time: in the
thread of the connection, or in another one if a request among them may last, so that the client's
signs of life are answered meanwhile. What waits is bounded in both directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import asyncssh

from wingsd.sftp.server import answers, packets
from wingsd.sftp.server.data_receiver import DataReceiver
from wingsd.sftp.server.data_sender import DataConnection, DataSender
from wingsd.sftp.server.packets import FrameReader, Init, PacketError, Request, parse
from wingsd.sftp.server.threads import FileThreads
from wingsd.sftp.server.traffic import Traffic

if TYPE_CHECKING:
    from wingsd.sftp.server.operations import Operations

__all__ = ["SftpChannel"]

NO_SHELL = "This node has no shell: use an SFTP client, or the console in the Panel."
NO_COMMANDS = "This node runs no commands: use an SFTP client, or scp without the option -O."
#: Bytes of requests that wait, above which the client is not read from, and below which it is, in
#: the first channel of a connection. A further one has a share: the second a half, the third a
#: third, so that ten of them take no more than three times as much as one.
_HIGH, _LOW = 2 << 20, 1 << 20
#: Bytes of requests and of answers, and requests, in one batch.
_BATCH_BYTES = 1 << 19
_BATCH_REQUESTS = 128
#: Bytes that Python takes for each request beside what is in it.
_OBJECT = 48
#: Bytes of answers that wait for the client's window, and answers, above which no more are made;
#: the same holds for them.
_SEND_BUFFER, _SEND_PIECES = 1 << 20, 1 << 12
#: Bytes of data in a packet: no client takes less, and each packet costs time.
_MIN_PACKET = 256
_FIRST_VERSION = 3
#: What may last as long as a tree is large; and what is written to the disk by `fsync`.
_LONG = frozenset((packets.RMDIR, packets.RENAME, packets.EXTENDED))


class SftpChannel(asyncssh.SSHServerSession[bytes]):
    """A channel. `operations` makes what answers requests; `fault` logs one of this program.

    `ended` is called when the channel is closed and nothing is done for it any more. `share` is
    the number of channels that the connection has with this one.
    """

    def __init__(
        self,
        operations: Callable[[], Operations],
        connection: DataConnection,
        threads: FileThreads,
        traffic: Traffic,
        fault: Callable[[BaseException], None],
        ended: Callable[[SftpChannel], None],
        share: int,
    ) -> None:
        self._make_operations = operations
        self._connection = connection
        self._operations: Operations | None = None
        self._threads = threads
        self._traffic = traffic
        self._fault = fault
        self._ended = ended
        self._share = share
        self._chan: asyncssh.SSHServerChannel[bytes]
        self._sender: DataSender
        self._receiver: DataReceiver
        self._frames = FrameReader()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._refusal = ""
        #: Whether it has begun; one that was refused meanwhile never does.
        self.was_made = False
        self._greeted = self._busy = self._at_end = self._exited = self._lost = False
        #: Whether the connection takes no more answers, of any channel.
        self._held = False

    # The channel

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Begin."""
        self._chan = chan
        self.was_made = True
        self._sender = DataSender(self._connection, chan, self._work)
        self._receiver = DataReceiver(chan, self._take_in)
        if chan._send_pktsize < _MIN_PACKET:
            raise asyncssh.ProtocolError("Invalid maximum packet size")

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
        self._operations = self._make_operations()

    def _take_in(self, data: bytes | memoryview) -> None:
        if self._operations is None or self._at_end:
            return
        try:
            for packet in self._frames.feed(data):
                self._waiting.append(packet)
                self._waiting_bytes += len(packet) + _OBJECT
        except PacketError:
            self._finish(1)
            return
        if self._waiting_bytes > _HIGH // self._share:
            self._receiver.pause()
        self._work()

    def eof_received(self) -> bool:
        """Answer what waits, and then close the channel."""
        self._at_end = True
        self._work()
        return True

    def hold(self, *, held: bool) -> None:
        """Make no more answers of this connection, or go on."""
        self._held = held
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close what is open, when the batch that is under way has ended."""
        self._lost = True
        self._waiting.clear()
        self._sender.clear()
        self._work()

    # The work

    def _finish(self, status: int) -> None:
        self._at_end = True
        self._waiting.clear()
        self._waiting_bytes = 0
        if not self._lost and not self._exited:
            self._exited = True
            self._chan.exit(status)

    def _work(self) -> None:
        while self._waiting and not (self._busy or self._is_full() or self._held or self._lost):
            self._busy = True
            batch = self._batch()
            answering = partial(self._answer, batch)
            if any(packet[0] in _LONG for packet in batch):
                self._threads.run(answering, self._answered)
            else:
                self._take(answering)
        if self._busy:
            return
        if self._lost:
            self._close()
        elif self._at_end and not self._waiting:
            self._finish(0)

    def _is_full(self) -> bool:
        """Return whether the client has to read before it is answered again."""
        most, pieces = _SEND_BUFFER // self._share, _SEND_PIECES // self._share
        return self._sender.size > most or self._sender.pieces > pieces

    def _batch(self) -> deque[bytes]:
        batch: deque[bytes] = deque()
        size = 0
        while self._waiting and size < _BATCH_BYTES and len(batch) < _BATCH_REQUESTS:
            packet = self._waiting.popleft()
            size += len(packet)
            batch.append(packet)
        return batch

    def _answer(self, batch: deque[bytes]) -> tuple[list[bytes], int]:
        """Do requests until their answers are many bytes.

        Return the answers, and what the requests that were done took; those that were not are
        left in `batch`.
        """
        made: list[bytes] = []
        size = done = 0
        while batch and size < _BATCH_BYTES and not self._lost:
            packet = batch.popleft()
            done += len(packet) + _OBJECT
            answer = self._answer_one(packet)
            size += len(answer)
            made.append(answer)
        self._left = batch
        return made, done

    def _answer_one(self, packet: bytes) -> bytes:
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
        return self._done(operations, request)

    def _greet(self, packet: bytes) -> bytes:
        request = parse(packet)
        if not isinstance(request, Init) or request.version < _FIRST_VERSION:
            raise PacketError("the first packet does not begin SFTP 3")
        self._greeted = True
        return answers.version()

    def _done(self, operations: Operations, request: Request) -> bytes:
        try:
            return operations.answer(request)
        except Exception as error:
            self._fault(error)
            return answers.status(request.id, answers.FAILURE, "internal error of the node")

    def _answered(self, batch: Callable[[], tuple[list[bytes], int]]) -> None:
        self._take(batch)
        self._work()

    def _take(self, batch: Callable[[], tuple[list[bytes], int]]) -> None:
        """Send the answers to a batch."""
        try:
            made, done = batch()
        except PacketError:
            self._finish(1)
        if not self._lost and not self._exited:
            self._waiting.extendleft(reversed(self._left))
            self._waiting_bytes -= done
            self._traffic.count(done - _OBJECT * len(made), sum(map(len, made)))
            self._sender.write(made)
            if self._receiver.is_paused and self._waiting_bytes < _LOW // self._share:
                self._receiver.resume()
        self._busy = False

    def _close(self) -> None:
        operations, self._operations = self._operations, None
        self._busy = True  # for ever
        if operations is not None:
            operations.close()
        self._ended(self)
