"""SSH connections of asyncssh, at less CPU time for each packet.

asyncssh sends a message that is to be ignored before each packet, which protects ciphers in CBC
mode: none is offered here. It makes a new cipher of AES-GCM for each packet, and copies the data
again and again, so that packets with data go past it where the cipher is AES-GCM. It also takes in
any number of packets before a login, and prepares names and passwords of any length (RFC 4013), of
which a character can become 18.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Awaitable, Iterable, Sequence
from functools import cache, partial
from unicodedata import normalize

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.encryption import GCMEncryption, register_encryption_alg
from asyncssh.packet import SSHPacket, SSHPacketLogger
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wingsd.sftp.server.turns import Turns

__all__ = ["Gcm", "SshConnection", "use_fast_ciphers"]

#: Bytes of the nonce that stay the same, before the number of the packet (RFC 5647).
_FIXED = 4
_NUMBERS = 1 << 64
#: Bytes of a packet: twice what a channel of this server takes, and what later versions allow.
_MAX_PACKET = 256 << 10
#: Before a login, of all that a client sends: bytes, and more of them for each attempt to log in
#: that it may make; and requests to log in beside these attempts, such as the first one (`none`),
#: and the signature by a key that was accepted.
_EARLY_BYTES, _ATTEMPT_BYTES = 8 << 10, 1 << 10
_EARLY_REQUESTS = 10
#: Before a login, bytes of a packet; and characters of a user's name, and of a request without a
#: key, when they are prepared: Panels take passwords of 512 characters.
_MAX_EARLY_PACKET = 8 << 10
_MAX_USERNAME, _MAX_REQUEST = 256, 1 << 10
#: Packets that wait for the end of an exchange of keys, above which the client is cut off.
_MAX_DEFERRED = 1024
#: Bytes of a block, to which packets are padded, and the fewest of padding (RFC 4253, section 6).
_BLOCK, _MIN_PADDING = 16, 4
#: The length of a packet; in it the length of the padding, the type, and of data the number of the
#: channel and the length.
_LENGTH = struct.Struct(">I")
_DATA = struct.Struct(">BBII")
#: Bytes of the tag of AES-GCM.
_TAG = 16
_DATA_TYPE = bytes((MSG_CHANNEL_DATA,))


class Gcm(GCMEncryption):
    """AES-GCM with one cipher for all packets of a key."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = nonce[:_FIXED]
        self._number = int.from_bytes(nonce[_FIXED:], "big")
        #: What was in the packet that was opened last, and whether asyncssh is still to get it.
        self._opened: bytes | None = None
        self._is_open = False

    @classmethod
    def new(
        cls,
        cipher_name: str,
        key: bytes,
        iv: bytes,
        mac_alg: bytes = b"",
        mac_key: bytes = b"",
        etm: bool = False,
    ) -> Gcm:
        """Make one; that of the MAC is not used."""
        return cls(key, iv)

    def _nonce(self) -> bytes:
        number = self._number
        self._number = (number + 1) % _NUMBERS
        return self._fixed + number.to_bytes(8, "big")

    def encrypted(self, header: bytes, packet: bytes) -> bytes:
        """Return a packet without its header, and with its tag."""
        return self._aead.encrypt(self._nonce(), packet, header)

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the packet with its tag, which asyncssh appends nothing to."""
        return header + self.encrypted(header, packet), b""

    def open(self, whole: memoryview) -> bytes | None:
        """Return what is in a whole packet, None where its tag is wrong.

        `decrypt_packet` then returns the same, unless `taken` says that it will not be asked.
        """
        self._opened = self._decrypted(whole[_LENGTH.size :], whole[: _LENGTH.size])
        self._is_open = True
        return self._opened

    def taken(self) -> None:
        """Say that the packet that was opened is not left to asyncssh."""
        self._is_open = False
        self._opened = None

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return what is in a packet, None where its tag is wrong."""
        if not self._is_open:
            encrypted = b"".join((first[header_len:], rest, mac))
            return self._decrypted(encrypted, first[:header_len])
        opened = self._opened
        self.taken()
        return opened

    def _decrypted(
        self, encrypted: bytes | memoryview, header: bytes | memoryview
    ) -> bytes | None:
        try:
            return self._aead.decrypt(self._nonce(), encrypted, header)
        except InvalidTag:
            return None


@cache  # asyncssh would offer each cipher once more
def use_fast_ciphers() -> None:
    """Have all connections of this process use them, from now on."""
    for name in ("aes128-gcm", "aes256-gcm"):
        register_encryption_alg(f"{name}@openssh.com".encode(), Gcm, name, True)


def _prepared_size(text: bytes) -> int:
    """Return the characters of a text as asyncssh prepares it, at a hundredth of its CPU time."""
    return len(normalize("NFKC", text.decode("utf-8", "replace")))


class SshConnection(asyncssh.SSHServerConnection):
    """A connection with packets of bounded length, and before its login of a bounded number.

    It sends no messages to be ignored, and logs no packets. What it does for its channels is done
    in its turn. `attempts` to log in with a password or a key are the most that are needed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        turns: Turns,
        attempts: int,
    ) -> None:
        super().__init__(loop, options)
        #: Calls a function, now or later.
        self.in_turn = turns.work
        #: The bytes, and requests to log in, that are still taken in before the login.
        self._early_bytes = _EARLY_BYTES + attempts * _ATTEMPT_BYTES
        self._early_requests = attempts + _EARLY_REQUESTS

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Take in packets, without copying all that has come for each of them."""
        if not self._auth_complete:
            self._early_bytes -= len(data)
            if self._early_bytes < 0:
                self._refuse_early_data()
                return
        self.in_turn(partial(self._take_in, data))

    def _refuse_early_data(self) -> None:
        if self._client_version:
            self.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "Too much data before the login")
        else:  # it is no SSH
            self.abort()

    def _take_in(self, data: bytes) -> None:
        if isinstance(self._recv_encryption, Gcm):
            whole = b"".join((self._inpbuf, data)) if self._inpbuf else data
            self._inpbuf = memoryview(whole)  # type: ignore[assignment]
            self._recv_data()
        else:
            self._inpbuf = bytes(self._inpbuf)  # a view, when the last keys were of AES-GCM
            super().data_received(data)

    def _recv_pkthdr(self) -> bool:
        """Take in packets with data; what comes next is left to asyncssh."""
        encryption = self._recv_encryption
        if isinstance(encryption, Gcm):
            while self._take_data(encryption):
                pass
        else:
            self._inpbuf = bytes(self._inpbuf)  # a view, when new keys have another cipher
        return super()._recv_pkthdr()

    def _take_data(self, encryption: Gcm) -> bool:
        """Take in the next packet, if it is a channel's data; return whether it was."""
        came = memoryview(self._inpbuf)
        if len(came) < _BLOCK:
            return False
        (length,) = _LENGTH.unpack_from(came)
        end = _LENGTH.size + length + _TAG
        if length > _MAX_PACKET or len(came) < end:
            return False
        packet = encryption.open(came[:end])
        if packet is None or packet[1:2] != _DATA_TYPE or length < _DATA.size:
            return False
        padding, _, number, size = _DATA.unpack_from(packet)
        channel = self._channels.get(number)
        if (
            channel is None
            or _DATA.size + size + padding != length
            or size > channel._recv_window
            or channel._recv_state != "open"
        ):
            return False
        encryption.taken()
        self._inpbuf = came[end:]  # type: ignore[assignment]
        self._recv_seq = (self._recv_seq + 1) & 0xFFFFFFFF
        data = memoryview(packet)[_DATA.size : _DATA.size + size]
        channel._accept_data(data)  # type: ignore[arg-type]
        return True

    def process_packet(
        self, pkttype: int, pktid: int, packet: SSHPacket
    ) -> bool | Awaitable[None]:
        """Handle a packet that is for no channel; before the login, only what it takes."""
        if not self._auth_complete:
            if pkttype == MSG_USERAUTH_REQUEST:
                self._check_request(SSHPacket(packet.get_remaining_payload()))
            elif pkttype == MSG_KEXINIT and self._session_id:
                raise asyncssh.ProtocolError("Another exchange of keys before the login")
        return super().process_packet(pkttype, pktid, packet)

    def _check_request(self, fields: SSHPacket) -> None:
        """Raise `ProtocolError` for one request to log in too many, or too long."""
        self._early_requests -= 1
        if self._early_requests < 0:
            raise asyncssh.ProtocolError("Too many requests to log in")
        whole = fields.get_remaining_payload()
        username, _, method = fields.get_string(), fields.get_string(), fields.get_string()
        if _prepared_size(username) > _MAX_USERNAME or (
            method != b"publickey" and _prepared_size(whole) > _MAX_REQUEST
        ):
            raise asyncssh.ProtocolError("The user's name or the password is too long")

    def _recv_packet(self) -> bool:
        if self._pktlen > (_MAX_PACKET if self._auth_complete else _MAX_EARLY_PACKET):
            raise asyncssh.ProtocolError("Max packet size exceeded")
        if len(self._deferred_packets) > _MAX_DEFERRED:
            raise asyncssh.ProtocolError("Too many requests during a key exchange")
        return super()._recv_packet()

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet."""
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=self)

    def send_data(self, channel: int, packets: Iterable[Sequence[memoryview]]) -> None:
        """Send packets with a channel's data, each of some pieces, in one call of the kernel."""
        encryption, transport = self._send_encryption, self._transport
        if (
            not isinstance(encryption, Gcm)
            or not isinstance(transport, asyncio.Transport)
            or self._is_to_send_slowly()
        ):
            for pieces in packets:
                data = b"".join(pieces)
                head = _LENGTH.pack(channel) + _LENGTH.pack(len(data))
                self.send_packet(MSG_CHANNEL_DATA, head, data)
            return
        sent: list[bytes] = []
        for pieces in packets:
            size = sum(map(len, pieces))
            padding = -(_DATA.size + size) % _BLOCK
            if padding < _MIN_PADDING:
                padding += _BLOCK
            head = _DATA.pack(padding, MSG_CHANNEL_DATA, channel, size)
            packet = b"".join((head, *pieces, os.urandom(padding)))
            length = _LENGTH.pack(len(packet))
            sent += (length, encryption.encrypted(length, packet))
            self._send_seq = (self._send_seq + 1) & 0xFFFFFFFF
            self._rekey_bytes_sent += len(packet)
        transport.writelines(sent)

    @property
    def exchanges_keys(self) -> bool:
        """Whether keys are being exchanged: what is sent waits in memory for the end of that."""
        return not self._kex_complete

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """End an exchange of keys, and send the data that has waited for it."""
        super().send_newkeys(k, h)
        for channel in tuple(self._channels.values()):
            channel._flush_send_buf()

    def _is_to_send_slowly(self) -> bool:
        """Return whether keys are being exchanged, or are to be exchanged now."""
        return (
            self.exchanges_keys
            or self._rekey_bytes_sent >= self._rekey_bytes
            or (self._rekey_seconds > 0 and time.monotonic() >= self._rekey_time)
        )

    def log_sent_packet(
        self, pkttype: int, pktid: int | None, packet: bytes | SSHPacket, note: str = ""
    ) -> None:
        """Log nothing."""

    def log_received_packet(
        self, pkttype: int, pktid: int | None, packet: bytes | SSHPacket, note: str = ""
    ) -> None:
        """Log nothing."""
