"""SSH connections of asyncssh, at less CPU time for each packet.

asyncssh sends a message that is to be ignored before each packet, which protects ciphers in CBC
mode: none is offered here. It makes a new cipher of AES-GCM for each packet, and copies the data
four times. Debian's version (2.20) also collects packets of any length, before a login too.
"""

from __future__ import annotations

import asyncssh
from asyncssh.constants import MSG_IGNORE
from asyncssh.encryption import GCMEncryption, register_encryption_alg
from asyncssh.packet import SSHPacket, SSHPacketLogger
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["SshConnection", "use_fast_ciphers"]

#: Bytes of the nonce that stay the same, before the number of the packet (RFC 5647).
_FIXED = 4
_NUMBERS = 1 << 64
#: Bytes of a packet: twice what a channel of this server takes, and what later versions allow.
_MAX_PACKET = 256 << 10


class _Gcm(GCMEncryption):
    """AES-GCM with one cipher for all packets of a key."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = nonce[:_FIXED]
        self._number = int.from_bytes(nonce[_FIXED:], "big")

    @classmethod
    def new(
        cls,
        cipher_name: str,
        key: bytes,
        iv: bytes,
        mac_alg: bytes = b"",
        mac_key: bytes = b"",
        etm: bool = False,
    ) -> _Gcm:
        """Make one; that of the MAC is not used."""
        return cls(key, iv)

    def _nonce(self) -> bytes:
        number = self._number
        self._number = (number + 1) % _NUMBERS
        return self._fixed + number.to_bytes(8, "big")

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the packet with its tag, which asyncssh appends nothing to."""
        return header + self._aead.encrypt(self._nonce(), packet, header), b""

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return what is in a packet, None where its tag is wrong."""
        encrypted = b"".join((first[header_len:], rest, mac))
        try:
            return self._aead.decrypt(self._nonce(), encrypted, first[:header_len])
        except InvalidTag:
            return None


def use_fast_ciphers() -> None:
    """Have all connections of this process use them, from now on."""
    for name in ("aes128-gcm", "aes256-gcm"):
        register_encryption_alg(f"{name}@openssh.com".encode(), _Gcm, name, True)


class SshConnection(asyncssh.SSHServerConnection):
    """A connection with packets of bounded length.

    It sends no messages to be ignored, and logs no packets.
    """

    def _recv_packet(self) -> bool:
        if self._pktlen > _MAX_PACKET:
            raise asyncssh.ProtocolError("Max packet size exceeded")
        return super()._recv_packet()

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet."""
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args, handler=handler or self)

    def log_sent_packet(
        self, pkttype: int, pktid: int | None, packet: bytes | SSHPacket, note: str = ""
    ) -> None:
        """Log nothing."""

    def log_received_packet(
        self, pkttype: int, pktid: int | None, packet: bytes | SSHPacket, note: str = ""
    ) -> None:
        """Log nothing."""
