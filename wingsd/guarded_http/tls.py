"""TLS to servers of addresses that users give: their certificates, and what is wrong with one."""

from __future__ import annotations

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import platformTrust
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from wingsd.guarded_http.errors import DownloadFailed
from wingsd.util.net import tls_options

__all__ = ["CertificateCheck", "system_trust"]

# OpenSSL's numbers (x509_vfy.h); the last are those of chains without a trusted root.
_FAULTS = {
    9: "is not valid yet",
    10: "has expired",
    **dict.fromkeys((2, 18, 19, 20, 21), "is of an authority that this node does not trust"),
}


def system_trust() -> SSL.Context:
    """Return a context that trusts the system's certificate authorities."""
    context: SSL.Context = tls_options(trustRoot=platformTrust()).getContext()
    return context


@implementer(IOpenSSLClientConnectionCreator)
class CertificateCheck:
    """Makes one TLS connection, and checks that the certificate is one of `host`."""

    def __init__(self, context: SSL.Context, host: str) -> None:
        """`host` is a name or an IP address."""
        self._context = context
        self._host = host
        self._by_address = isIPAddress(host) or isIPv6Address(host)
        #: What is wrong with the certificate, if anything is.
        self.fault: DownloadFailed | None = None

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Return the connection. OpenSSL fails its handshake when the chain is not valid."""
        connection = SSL.Connection(self._context, None)
        if not self._by_address:  # RFC 6066, section 3
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        connection.set_alpn_protos([b"http/1.1"])
        connection.set_verify(SSL.VERIFY_PEER, self._note)
        return connection

    def verify_name(self, connection: SSL.Connection) -> None:
        """Raise `DownloadFailed` when the certificate, of a valid chain, is not one of `host`.

        To be called when the handshake is complete, before anything is sent.
        """
        verify = verify_ip_address if self._by_address else verify_hostname
        try:
            verify(connection, self._host)
        except (VerificationError, CertificateError, ValueError) as error:
            # service-identity 24 raises ValueError for a wildcard and a host without a dot.
            raise DownloadFailed(f"the certificate of {self._host} is for another name") from error

    def _note(self, _: SSL.Connection, certificate: X509, code: int, depth: int, ok: int) -> bool:
        if not ok and self.fault is None:
            fault = _FAULTS.get(code, f"is refused by OpenSSL (verification error {code})")
            self.fault = DownloadFailed(f"the certificate of {self._host} {fault}")
        return bool(ok)
