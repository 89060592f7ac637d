"""One SSH connection: its bounds, its login, which the daemon decides on, and its channels.

In a channel, requests are done one after the other, in the order in which they came, a batch at a
time: in the thread of the connection, or in another one if a request may last, so that the
client's signs of life are answered meanwhile. Requests wait as the bytes that came, and in both
directions no more waits than a bound: 100,000 small requests would be ten times their size as
objects.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEX_LAST,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.packet import Boolean, SSHPacket, SSHPacketLogger, String, UInt32

from wingsd.errors import InvalidData
from wingsd.sftp.messages import Begin, Closed, FrameReader, Granted, Login, Rejected
from wingsd.sftp.server import packets
from wingsd.sftp.server.access import SessionAccess
from wingsd.sftp.server.operations import SftpOperations

if TYPE_CHECKING:
    from wingsd.sftp.server.main import SftpServer

#: Bytes of one packet that a client may send.
_PACKET = 128 << 10
#: Bytes that a client may send before its login: so many, and more for each attempt to log in that
#: it may make; and requests to log in beside these attempts, such as the first one (`none`), and
#: the signature by a key that was accepted.
_EARLY_BYTES, _ATTEMPT_BYTES = 8 << 10, 1 << 10
_EARLY_REQUESTS = 10
#: Before a login, bytes of the first packet; and characters of a user's name, and of a request
#: without a key, when they are prepared: Panels take passwords of 512 characters.
_MAX_FIRST_PACKET = 8 << 10
_MAX_USERNAME, _MAX_REQUEST = 256, 1 << 10
#: Bytes that may be sent without ending a packet: twice a packet of data.
_MAX_UNFINISHED = 256 << 10
#: Bytes that asyncssh is given at once: it copies what is left of them for each packet.
_PIECE = 32 << 10
#: Bytes of packets that are given to the kernel at once: the client works on them meanwhile.
_AT_ONCE = 256 << 10
#: Packets that wait for the end of an exchange of keys, above which the client is cut off.
_MAX_DEFERRED = 1024
#: The length of a packet; and the number of a channel, and the length of its data.
_LENGTH = struct.Struct(">I")
_DATA_HEAD = struct.Struct(">II")
#: Seconds between two probes of an idle client, and how many it may leave unanswered.
_PROBE_INTERVAL, _PROBES = 60, 3
#: Bytes that wait for the socket, above which the client is not read from, and below which it is.
_HIGH, _LOW = 1 << 19, 1 << 18
#: Bytes of data in a packet that a client takes: no client takes less, and each costs time.
_MIN_PACKET = 256


class _Socket(asyncio.Transport):
    """The socket as asyncssh has it: many packets go to the kernel in one call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        #: Whether what is written is kept.
        self.gathers = False
        self._packets: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:  # type: ignore[override]
        """Send a packet, now or with others."""
        if not self.gathers:
            self._transport.write(data)
            return
        self._packets.append(data)
        self._size += len(data)
        if self._size >= _AT_ONCE:
            self._flush()

    def release(self) -> None:
        """Send what was kept, and what is written from now on."""
        self.gathers = False
        self._flush()

    def _flush(self) -> None:
        packets, self._packets, self._size = self._packets, [], 0
        if packets:
            self._transport.write(packets[0] if len(packets) == 1 else b"".join(packets))

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return what asyncio knows of the socket."""
        return self._transport.get_extra_info(name, default)


class SshConnection(asyncssh.SSHServerConnection):
    """The protocol of SSH, with a bound for all that asyncssh keeps for a client.

    asyncssh takes in packets of any number before a login, prepares names and passwords of any
    length (RFC 4013), of which a character can become 18, and keeps all that the socket does not
    take. It sends a message that is to be ignored before each packet, which protects ciphers in
    CBC mode: none is offered here. Of its names that are not in its documents, only those are used
    here that have no underscore.
    """

    def __init__(
        self, options: asyncssh.SSHServerConnectionOptions, owner: SftpConnection
    ) -> None:
        super().__init__(asyncio.get_running_loop(), options)
        self.owner = owner
        self.turns = owner.server.turns
        self.socket: asyncio.Transport
        self._gathering: _Socket
        self.is_logged_in = False
        #: Whether the socket takes no more.
        self.is_full = False
        #: Whether keys are being exchanged: what is sent waits in memory for the end of that.
        self.exchanges_keys = False
        #: Whether no answers are made, for one of these reasons.
        self.holds = False
        self.deferred = 0
        #: Bytes since the last packet that was whole, and whole packets that came at once.
        self.unfinished = self.packets = 0
        #: The client's number, window and packet of the channel that is being opened.
        self.opening = (0, 0, 0)
        #: Probes and intervals in which the client has sent nothing.
        self.unanswered = 0
        self.first = b""
        self.exchanges = 0
        #: The bytes, and requests to log in, that are still taken in before the login.
        self.early_bytes = _EARLY_BYTES + owner.attempts * _ATTEMPT_BYTES
        self.early_requests = owner.attempts + _EARLY_REQUESTS

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.socket = transport
        transport.set_write_buffer_limits(_HIGH, _LOW)
        self._gathering = _Socket(transport)
        super().connection_made(self._gathering)

    def gather(self, work: Callable[[], None]) -> None:
        """Do work, and send what it writes in one call."""
        if self._gathering.gathers:
            work()
            return
        self._gathering.gathers = True
        try:
            work()
        finally:
            self._gathering.release()

    def log_in(self) -> None:
        """Take in all packets from now on, and look for signs of life.

        asyncssh would set a timer again for each packet.
        """
        self.is_logged_in = True
        self._probe()

    def _probe(self) -> None:
        """Ask a client that has sent nothing for a while for an answer."""
        if self.unanswered > _PROBES:
            self.abort()
            return
        if self.unanswered:
            keepalive = String("keepalive@openssh.com") + Boolean(value=True)
            self.send_packet(MSG_GLOBAL_REQUEST, keepalive)
        self.unanswered += 1
        asyncio.get_running_loop().call_later(_PROBE_INTERVAL, self._probe)

    def pause_writing(self) -> None:
        """Answer no more, and do not read what is to be answered."""
        self.is_full = True
        self.socket.pause_reading()
        self._check_hold()

    def resume_writing(self) -> None:
        """Go on."""
        self.is_full = False
        self.socket.resume_reading()
        self._check_hold()

    def _check_hold(self) -> None:
        self.holds = self.is_full or self.exchanges_keys
        if not self.holds:
            work = partial(self.gather, self.owner.go_on)
            asyncio.get_running_loop().call_soon(self.turns.work, work)

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Take in packets."""
        if not self.is_logged_in:
            self.early_bytes -= len(data)
            if self.early_bytes < 0 or not self._may_begin(data):
                if self.get_extra_info("client_version"):
                    self.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "Too much data before the login")
                else:  # it is no SSH
                    self.abort()
                return
        self.unanswered = 0
        work = partial(self._take_in, data)
        # A client that waits for each answer gets it at once.
        is_one, self.packets = self.packets <= 1, 0
        self.turns.work(work if is_one else partial(self.gather, work))

    def _may_begin(self, data: bytes) -> bool:
        """Return whether the first packet, which is not encrypted, has no impossible length."""
        if self.exchanges:
            return True
        self.first += data
        length = self.first.partition(b"\n")[2][: _LENGTH.size]
        return len(length) < _LENGTH.size or _LENGTH.unpack(length)[0] <= _MAX_FIRST_PACKET

    def _take_in(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            if start and self.get_extra_info("socket") is None:
                return  # what came before it has ended the connection
            piece = data[start : start + _PIECE]
            self.unfinished += len(piece)
            super().data_received(piece)
        if self.unfinished > _MAX_UNFINISHED:
            self.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "A packet is too long")

    def note_packet(self) -> None:
        """Note that a packet was whole."""
        self.unfinished = 0
        self.packets += 1

    def process_packet(
        self, pkttype: int, pktid: int, packet: SSHPacket
    ) -> bool | Awaitable[None]:
        """Handle a packet that is for no channel; before the login, only what it takes."""
        self.note_packet()
        if pkttype == MSG_KEXINIT:
            self.exchanges += 1
            self.first = b""
        if not self.is_logged_in:
            if pkttype == MSG_USERAUTH_REQUEST:
                self._check_request(SSHPacket(packet.get_remaining_payload()))
            elif pkttype == MSG_KEXINIT and self.exchanges > 1:
                raise asyncssh.ProtocolError("Another exchange of keys before the login")
        elif pkttype in (MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE):
            return True  # the answer to a probe
        elif pkttype == MSG_CHANNEL_OPEN:
            self._check_opening(SSHPacket(packet.get_remaining_payload()))
        return super().process_packet(pkttype, pktid, packet)

    def _check_request(self, fields: SSHPacket) -> None:
        """Raise `ProtocolError` for one request to log in too many, or too long."""
        self.early_requests -= 1
        if self.early_requests < 0:
            raise asyncssh.ProtocolError("Too many requests to log in")
        whole = fields.get_remaining_payload()
        username, _, method = fields.get_string(), fields.get_string(), fields.get_string()
        if _prepared_size(username) > _MAX_USERNAME or (
            method != b"publickey" and _prepared_size(whole) > _MAX_REQUEST
        ):
            raise asyncssh.ProtocolError("The user's name or the password is too long")

    def _check_opening(self, fields: SSHPacket) -> None:
        """Raise `ProtocolError` for a channel whose data would take too many packets."""
        fields.get_string()
        self.opening = fields.get_uint32(), fields.get_uint32(), fields.get_uint32()
        if self.opening[2] < _MIN_PACKET:
            raise asyncssh.ProtocolError("Invalid maximum packet size")

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, or defer it to the end of an exchange of keys."""
        if pkttype == MSG_IGNORE:
            return
        if pkttype in (MSG_KEXINIT, MSG_NEWKEYS):
            self.exchanges_keys = pkttype == MSG_KEXINIT
            self.deferred = 0
            self._check_hold()
        elif self.exchanges_keys and pkttype > MSG_KEX_LAST and pkttype != MSG_CHANNEL_DATA:
            self.deferred += 1
            if self.deferred > _MAX_DEFERRED:
                raise asyncssh.ProtocolError("Too many requests during a key exchange")
        super().send_packet(pkttype, *args, handler=self)

    def send_data(self, channel: int, data: bytes | memoryview) -> None:
        """Send data of the channel that the client has given this number."""
        head = _DATA_HEAD.pack(channel, len(data))
        super().send_packet(MSG_CHANNEL_DATA, head, data, handler=self)  # type: ignore[arg-type]

    def _log_nothing(self, *_: object, **__: object) -> None:
        """Replace what asyncssh logs of each packet."""

    log_sent_packet = log_received_packet = _log_nothing


def _prepared_size(text: bytes) -> int:
    """Return the characters of a text as asyncssh prepares it, at a hundredth of its CPU time."""
    return len(normalize("NFKC", text.decode("utf-8", "replace")))


class SftpConnection(asyncssh.SSHServer):
    """A connection with the number `number`, in a thread of its own with an event loop.

    Its files are read and written there, too: a small file is three requests, one after the other,
    and to hand each to another thread and back took longer than the work itself. A disk that is
    slow holds up this connection and no other one.

    Any thread may call `call`, `begin`, `disconnect` and `abort`.
    """

    def __init__(self, number: int, server: SftpServer) -> None:
        self.number = number
        self.server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._conn: SshConnection
        #: Whether it has begun.
        self._was_made = False
        #: Set at its end.
        self._over = asyncio.Event()
        #: Set when its session has begun: channels wait for that.
        self._begun = asyncio.Event()
        self._keys: dict[tuple[str, str], Granted] = {}
        #: Passwords and keys that were asked about, and those that may be: a client need not await
        #: the answers.
        self._asked: Counter[str] = Counter()
        limits = server.config.limits
        self._most = {
            "password": limits.authentication_password_attempts,
            "public_key": limits.authentication_pubkey_attempts,
        }
        #: The attempts to log in that are needed at most.
        self.attempts = sum(self._most.values())
        #: The last login that was granted, of which the signature is checked afterwards.
        self._granted: Granted | None = None
        self._access: SessionAccess | None = None
        self._channels: set[SftpChannel] = set()
        self._lost = self._aborted = False

    def start(self, accepted: socket.socket, options: asyncssh.SSHServerConnectionOptions) -> None:
        """Serve a socket. Raises RuntimeError where there can be no other thread."""
        serve = lambda: asyncio.run(self._serve(accepted, options))  # noqa: E731
        Thread(target=serve, name="wingsd-sftp-connection", daemon=True).start()

    async def _serve(
        self, accepted: socket.socket, options: asyncssh.SSHServerConnectionOptions
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        try:
            own = asyncssh.SSHServerConnectionOptions(options, server_factory=lambda: self)
            await loop.create_connection(lambda: SshConnection(own, self), sock=accepted)
        except (TimeoutError, OSError, asyncssh.Error):
            pass  # scanners, and clients that go away
        except Exception as error:
            self.server.fault(error)
        if self._was_made:
            await self._over.wait()
        else:
            accepted.close()
            self.server.note_end(self.number)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in its loop; nothing is called before it runs, and when it has ended."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(function)

    def connection_made(self, conn: Any) -> None:
        """Begin."""
        self._conn = conn
        self._was_made = True
        if self._aborted:
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, when its channels have ended."""
        self._lost = True
        if self._access is not None:
            self._access.close("the connection is closed")
        # Those that were just being opened never begin.
        self._channels = {each for each in self._channels if each.was_made}
        self._check_end()

    def begin(self) -> None:
        """Let channels open."""
        self.call(self._begun.set)

    def disconnect(self, why: str) -> None:
        """Close the connection, and send the client the reason."""
        if self._access is not None:
            self._access.close(why)
        self.call(lambda: self._disconnect(why))

    def _disconnect(self, why: str) -> None:
        if self._was_made and not self._lost:
            self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, why)

    def abort(self) -> None:
        """Close the connection at once."""
        self._aborted = True
        self.call(self._abort)

    def _abort(self) -> None:
        if self._was_made and not self._lost:
            self._conn.abort()

    def go_on(self) -> None:
        """Answer the requests that wait in the channels."""
        for channel in tuple(self._channels):
            channel.work()

    def _check_end(self) -> None:
        if self._lost and not self._channels:
            self.server.link.post(Closed(self.number))
            self.server.note_end(self.number)
            self._over.set()

    # Login

    def begin_auth(self, username: str) -> bool:
        """Demand a login."""
        self._granted = None
        return True

    def password_auth_supported(self) -> bool:
        """Return whether passwords are accepted."""
        return self.server.passwords

    def public_key_auth_supported(self) -> bool:
        """Accept public keys."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Ask the daemon to check a password."""
        if not self.server.passwords:
            return False
        return self._judge("password", await self._ask("password", username, password))

    def change_password(self, username: str, old_password: str, new_password: str) -> bool:
        """Refuse it, as a wrong password: users change theirs in the Panel."""
        self._asked["password"] += 1
        return self._judge("password", Rejected(0))

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Ask the daemon to check a public key, before the client has proved that it has its pair.

        A client asks first, and then signs with a key that was granted: it is checked once.
        """
        text = key.export_public_key("openssh").decode("utf-8", "replace").strip()
        known: Granted | Rejected | None = self._keys.get((username, text))
        if known is None:
            known = await self._ask("public_key", username, text)
            if isinstance(known, Granted):
                self._keys[username, text] = known
        return self._judge("public_key", known)

    async def _ask(self, kind: str, username: str, proof: str) -> Granted | Rejected:
        self._asked[kind] += 1
        ip, port, *_ = self._conn.get_extra_info("peername") or ("", 0)
        version = str(self._conn.get_extra_info("client_version") or "")
        if self._asked[kind] > self._most[kind]:
            return Rejected(0, final=True)
        number = next(self.server.logins)
        login = Login(number, self.number, kind, username, proof, str(ip), int(port), version)
        return await self.server.link.login(login)

    def _judge(self, kind: str, answer: Granted | Rejected) -> bool:
        """Return whether a login is granted; disconnect where no other may follow it."""
        self._granted = answer if isinstance(answer, Granted) else None
        if isinstance(answer, Rejected) and (
            answer.final or self._asked[kind] >= self._most[kind]
        ):
            self._conn.disconnect(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )
        return self._granted is not None

    def auth_completed(self) -> None:
        """Begin the session, with what the login grants."""
        granted, server = self._granted, self.server
        if granted is None:
            self._conn.abort()
            return
        self._conn.log_in()
        self._access = SessionAccess(granted, server, self.number)
        self._keys.clear()
        server.note_login(self.number)
        server.link.post(Begin(self.number, granted.request))

    # Channels

    def session_requested(
        self,
    ) -> bool | tuple[asyncssh.SSHServerChannel[bytes], Awaitable[SftpChannel]]:
        """Return another channel, which opens when the session has begun."""
        access, server = self._access, self.server
        if access is None or access.is_closed():
            return False
        if len(self._channels) >= server.config.limits.max_channels_per_connection:
            return False
        share = len(self._channels) + 1
        session = SftpChannel(access, self._conn, share)
        self._channels.add(session)
        channel = self._conn.create_server_channel(None, "strict", FIRST_WINDOW // share, _PACKET)
        return channel, self._when_begun(session)

    async def _when_begun(self, session: SftpChannel) -> SftpChannel:
        await self._begun.wait()
        return session

    def channel_ended(self, channel: SftpChannel) -> None:
        """Note that a channel is closed, and nothing is done for it any more."""
        self._channels.discard(channel)
        self._check_end()


NO_SHELL = "This node has no shell: use an SFTP client, or the console in the Panel."
NO_COMMANDS = "This node runs no commands: use an SFTP client, or scp without the option -O."
#: Bytes that the client of a connection's first channel may send at first before it learns that
#: they were read; and later as many requests as this of the size of its largest one, up to that
#: many bytes: uploads over a long line take a large window, and small requests never do. A further
#: channel has a share: the second a half, the third a third, so that ten of them take no more than
#: three times as much as one. The same holds for all that follows.
FIRST_WINDOW = 1 << 18
_REQUESTS, _WINDOW = 64, 1 << 21
#: Bytes of requests that wait, above which the client's window is not widened.
_MOST_WAITING = 1 << 17
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

    def __init__(self, access: SessionAccess, connection: SshConnection, share: int) -> None:
        self._access = access
        self._server = connection.owner.server
        self._connection = connection
        self._operations: SftpOperations | None = None
        self._share = share
        self._chan: asyncssh.SSHServerChannel[bytes]
        #: Bytes that the client may still send, those that it may after it was last informed, and
        #: those of its largest request.
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
            and not (self._waits and len(self._frames) > _MOST_WAITING // self._share)
            and not self._chan.is_closing()
        ):
            missing, self._window = self._most - self._window, self._most
            self._chan.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(missing))

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept SFTP only."""
        return subsystem == "sftp"

    def shell_requested(self) -> bool:
        """Accept the request, to send the client the reason why there is no shell."""
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
        lasting, is_past = None, False
        try:
            for packet in self._frames:
                self._largest = max(self._largest, len(packet))
                is_past = self._operations.waits(packet)
                if is_past or packet[0] in _LONG:
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
            if is_past:
                server = self._access.usage
                answering = self._server.readers.submit(server, partial(answer, lasting))
            else:
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
