"""The node's certificate: TLS 1.2 and above, read anew on demand without dropping anyone."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from wingsd.errors import ConfigError

__all__ = ["ServerCertificate"]


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
        for option, what, path, load in (
            ("cert", "certificate", self._cert, context.use_certificate_chain_file),
            ("key", "that certificate's key", self._key, context.use_privatekey_file),
        ):
            try:
                with open(path, "rb"):  # OpenSSL does not say why it cannot
                    load(path)
            except (OSError, SSL.Error) as error:
                raise ConfigError(
                    f"api.ssl.{option}: {path} cannot be used as {what} (PEM): {_why(error)}"
                ) from error
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return a new connection with the certificate as last read."""
        return SSL.Connection(self._context, None)


def _why(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        reasons = [reason for _, _, reason in error.args[0] if reason] if error.args else []
        return "; ".join(reasons) or "it holds no such thing"
    return str(error)
