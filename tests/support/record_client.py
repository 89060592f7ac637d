"""A client of TLS that makes its records itself, such as those that Python's ssl cannot send."""

from __future__ import annotations

import hmac
from contextlib import suppress

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

__all__ = ["RecordClient"]

_HANDSHAKE, _APPLICATION_DATA = 22, 23


class RecordClient:
    """A client of TLS 1.3 without a socket. OpenSSL makes its handshake, all else is made here.

    It encrypts with TLS_AES_128_GCM_SHA256 (RFC 8446), which the node prefers.
    """

    def __init__(self) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_keylog_callback(self._keep)
        self._connection = SSL.Connection(context, None)
        self._connection.set_connect_state()
        self._secret = b""
        #: Whether the handshake is over.
        self.is_ready = False

    def handshake(self, received: bytes = b"") -> bytes:
        """Continue the handshake with what has come; return what is to be sent."""
        if received:
            self._connection.bio_write(received)
        with suppress(SSL.WantReadError):
            self._connection.do_handshake()
            self.is_ready = True
            self._use(self._secret)
        return self._connection.bio_read(1 << 16)

    def data(self, content: bytes) -> bytes:
        """Return a record of data."""
        return self._record(_APPLICATION_DATA, content)

    def key_update(self) -> bytes:
        """Return a record with a KeyUpdate; what follows is encrypted by the next keys."""
        record = self._record(_HANDSHAKE, b"\x18\x00\x00\x01\x00")
        self._use(_expand(self._secret, b"traffic upd", 32))
        return record

    def _record(self, kind: int, content: bytes) -> bytes:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._cipher.encrypt(nonce, content + bytes([kind]), header)

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._cipher = AESGCM(_expand(secret, b"key", 16))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")

    def _keep(self, _: SSL.Connection, line: bytes) -> None:
        if line.startswith(b"CLIENT_TRAFFIC_SECRET_0 "):
            self._secret = bytes.fromhex(line.split()[2].decode())


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """Return HKDF-Expand-Label of RFC 8446 with an empty context, for up to 32 bytes."""
    name = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00"
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]
