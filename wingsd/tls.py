"""The node's certificate: TLS 1.2 and above, read anew on demand without dropping anyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import PKey
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from wingsd.errors import ConfigError

__all__ = ["GATHERED", "ServerCertificate"]

_RECORD = 16 << 10  # bytes that a TLS record has at most
GATHERED = 256 << 10
"""The most bytes of full records that are handed out as one."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerCertificate:
    """Two PEM files; connections made after `reload` use what they hold then."""

    def __init__(self, cert: str, key: str) -> None:
        """Raise `ConfigError` when the files are not a certificate (chain) and its key."""
        self._cert = cert
        self._key = key
        self.reload()

    def reload(self) -> None:
        """Read the files again. On `ConfigError` the previous certificate stays in use."""
        # Twisted's own list of ciphers and curves is the modern one.
        context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
        _take("api.ssl.cert", self._cert, context.use_certificate_chain_file)
        _take("api.ssl.key", self._key, lambda path: context.use_privatekey(_private_key(path)))
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a new connection with the certificate as last read."""
        return _Connection(self._context, None)


class _Connection(SSL.Connection):
    """Hands out full records in a row as one: each costs as much on its way as all of them.

    Twisted takes what has arrived record by record, of 16 KiB at most.
    """

    _failure: SSL.Error | None = None

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Return what has arrived: one record, or where it is full up to `GATHERED` bytes.

        `bufsiz` bounds one record; Twisted passes on as much as it is given.
        """
        if self._failure is not None:
            raise self._failure
        data = super().recv(bufsiz, flags)
        return data if flags or len(data) < _RECORD else self._gathered(data)

    def _gathered(self, data: bytes) -> bytes:
        records = [data]
        size = len(data)
        while size < GATHERED:
            try:
                data = super().recv(_RECORD)
            except SSL.Error as failure:
                self._keep(failure)
                break
            records.append(data)
            size += len(data)
            if len(data) < _RECORD:
                break
        return b"".join(records)

    def _keep(self, failure: SSL.Error) -> None:
        """Have it told by the next call. OpenSSL tells what is wrong with a connection once."""
        if not isinstance(failure, SSL.WantReadError):
            self._failure = failure


def _take(option: str, path: str, take: Callable[[str], None]) -> None:
    try:
        with open(path, "rb"):  # OpenSSL does not say why it cannot
            take(path)
    except (OSError, ValueError, SSL.Error) as error:
        raise ConfigError(f"{option}: {path} cannot be used: {_why(error)}") from error


def _private_key(path: str) -> PKey:
    try:
        key = load_pem_private_key(Path(path).read_bytes(), password=None)
        return PKey.from_cryptography_key(key)  # type: ignore[arg-type]  # of a kind it takes
    except TypeError as error:
        raise ValueError("it has a passphrase, which nobody is there to type") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it holds no private key in PEM form") from error


def _why(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        reasons = [reason for _, _, reason in error.args[0] if reason] if error.args else []
        return "; ".join(reasons) or "it holds no certificate in PEM form"
    return str(error)
