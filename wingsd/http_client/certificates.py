"""TLS to a server whose certificate is verified, with errors that say what is wrong with it.

Twisted's `optionsForClientTLS` does not: of one that has expired and of one by an unknown
authority it says the same.
"""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import platformTrust
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from wingsd.util.net import tls_options

__all__ = [
    "EXPIRED",
    "NOT_YET_VALID",
    "OTHER_NAME",
    "UNTRUSTED",
    "CertificateRefused",
    "CertificateVerifier",
    "system_trust",
]

# OpenSSL's numbers (x509_vfy.h); the last are those of chains without a trusted root. The first is
# that of a chain without fault.
OTHER_NAME = 0
NOT_YET_VALID = 9
EXPIRED = 10
UNTRUSTED = frozenset({2, 18, 19, 20, 21})


def system_trust() -> SSL.Context:
    """Return a context for TLS 1.2 and above, by AEAD suites alone.

    It trusts the system's certificate authorities (of `SSL_CERT_FILE` and `SSL_CERT_DIR`, where
    they are set), which take 10 ms to read.
    """
    context: SSL.Context = tls_options(trustRoot=platformTrust()).getContext()
    return context


class CertificateRefused(Exception):
    """A certificate is not to be trusted: `code` is OpenSSL's number, or `OTHER_NAME`."""

    def __init__(self, certificate: x509.Certificate, code: int = OTHER_NAME) -> None:
        super().__init__(f"the certificate is refused (verification error {code})")
        self.certificate = certificate
        self.code = code


@implementer(IOpenSSLClientConnectionCreator)
class CertificateVerifier:
    """Makes one TLS connection, and verifies that the certificate is one of `host`."""

    def __init__(self, context: SSL.Context, host: str) -> None:
        """`host` is a name or an IP address, as the certificate must have it."""
        self._context = context
        self._host = host
        self._by_address = isIPAddress(host) or isIPv6Address(host)
        #: What OpenSSL found wrong with the certificate, if it did.
        self.fault: CertificateRefused | None = None

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the connection. OpenSSL fails its handshake when the chain is not valid."""
        connection = SSL.Connection(self._context, None)
        if not self._by_address:  # RFC 6066, section 3
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        connection.set_alpn_protos([b"http/1.1"])
        connection.set_verify(SSL.VERIFY_PEER, self._note)
        return connection

    def verify_name(self, connection: SSL.Connection) -> None:
        """Raise `CertificateRefused` when the certificate, of a valid chain, is not one of `host`.

        To be called when the handshake is complete, before anything is sent.
        """
        verify = verify_ip_address if self._by_address else verify_hostname
        try:
            verify(connection, self._host)
        except (VerificationError, CertificateError, ValueError) as error:
            # service-identity 24 raises ValueError for a wildcard and a host without a dot.
            certificate = connection.get_peer_certificate()
            assert certificate is not None  # noqa: S101 - it was verified
            raise CertificateRefused(certificate.to_cryptography()) from error

    def _note(self, _: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
        if not ok and self.fault is None:
            self.fault = CertificateRefused(certificate.to_cryptography(), code)
        return bool(ok)
