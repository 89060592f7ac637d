"""The two ciphers that clients prefer, at a fraction of asyncssh's CPU time for each packet.

asyncssh makes each object of `cryptography` again for each packet: one of AES-GCM, and three of
ChaCha20 to send it. For a request of 50 bytes, as those for small files are, that is a large part
of the time. asyncssh has no other way to replace a cipher than the function by which it registers
its own; its documents do not name that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from asyncssh.encryption import ChachaEncryption, GCMEncryption, register_encryption_alg
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

#: Bytes of AES-GCM's nonce that stay the same, before the number of the packet (RFC 5647).
_FIXED = 4
_NUMBERS = 1 << 64
#: Bytes of a nonce of ChaCha20 as OpenSSL has it: the number of the block, and that of the packet.
_NONCE = 16
#: The first block of the key stream, of which Poly1305 has the first bytes as its key.
_BLOCK, _KEY = bytes(64), 32


class Gcm(GCMEncryption):
    """AES-GCM with one cipher for all packets of a key."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = nonce[:_FIXED]
        self._number = int.from_bytes(nonce[_FIXED:], "big")

    @classmethod
    def new(cls, *parts: Any, **_: Any) -> Gcm:
        """Make one of a name, a key and a nonce; what is about a MAC is not used."""
        return cls(*parts[1:3])

    def _nonce(self) -> bytes:
        number = self._number
        self._number = (number + 1) % _NUMBERS
        return self._fixed + number.to_bytes(8, "big")

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the header, and the packet with its tag, which asyncssh puts together."""
        return header, self._aead.encrypt(self._nonce(), packet, header)

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return what is in a packet, None where its tag is wrong."""
        encrypted = b"".join((first[header_len:], rest, mac))
        try:
            return self._aead.decrypt(self._nonce(), encrypted, first[:header_len])
        except InvalidTag:
            return None


class ChaCha(ChachaEncryption):
    """chacha20-poly1305@openssh.com with two ciphers for all packets of a key.

    Source: OpenSSH's PROTOCOL.chacha20poly1305. The number of a packet is the nonce. Of the key
    stream, the first block is the key of Poly1305, and the next ones are for the packet.
    """

    def __init__(self, key: bytes) -> None:
        half = len(key) // 2
        nonce = bytes(_NONCE)
        self._packet = Cipher(ChaCha20(key[:half], nonce), None).encryptor()
        self._length = Cipher(ChaCha20(key[half:], nonce), None).encryptor()

    @classmethod
    def new(cls, *parts: Any, **_: Any) -> ChaCha:
        """Make one of a name and a key; the rest is not used."""
        return cls(parts[1])

    def _crypt(self, nonce: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the key of Poly1305, and the packet."""
        self._packet.reset_nonce(nonce)
        stream = self._packet.update(_BLOCK + packet)
        return stream[:_KEY], stream[len(_BLOCK) :]

    def _crypt_length(self, nonce: bytes, length: bytes) -> bytes:
        self._length.reset_nonce(nonce)
        return self._length.update(length)

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the packet with its length, and the tag."""
        nonce = seq.to_bytes(_NONCE, "big")
        key, encrypted = self._crypt(nonce, packet)
        whole = self._crypt_length(nonce, header) + encrypted
        return whole, Poly1305.generate_tag(key, whole)

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the first block as it is, and the length."""
        length = self._crypt_length(seq.to_bytes(_NONCE, "big"), first_block[:header_len])
        return first_block, length

    def decrypt_packet(
        self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes
    ) -> bytes | None:
        """Return what is in a packet, None where its tag is wrong."""
        whole = first + rest
        key, packet = self._crypt(seq.to_bytes(_NONCE, "big"), whole[header_len:])
        try:
            Poly1305.verify_tag(key, whole, mac)
        except InvalidSignature:
            return None
        return packet


@cache  # asyncssh would offer each cipher once more
def use_fast_ciphers() -> None:
    """Use them in all connections of this process, from now on."""
    for name in ("aes128-gcm", "aes256-gcm"):
        register_encryption_alg(f"{name}@openssh.com".encode(), Gcm, name, True)
    register_encryption_alg(b"chacha20-poly1305@openssh.com", ChaCha, "chacha20-poly1305", True)
