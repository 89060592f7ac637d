"""TLS to servers of addresses that users give: what is wrong with their certificates."""

from __future__ import annotations

from cryptography import x509

from wingsd.errors import DownloadFailed
from wingsd.util.certificates import EXPIRED, NOT_YET_VALID, UNTRUSTED, CertificateVerifier

__all__ = ["CertificateCheck"]

_FAULTS = {
    NOT_YET_VALID: "is not valid yet",
    EXPIRED: "has expired",
    **dict.fromkeys(UNTRUSTED, "is of an authority that this node does not trust"),
}


class CertificateCheck(CertificateVerifier):
    """Verifies the certificate of a server that a user names. Its errors are `DownloadFailed`."""

    def chain_error(self, certificate: x509.Certificate, code: int) -> Exception:
        """Return what is wrong with the chain."""
        fault = _FAULTS.get(code, f"is refused by OpenSSL (verification error {code})")
        return DownloadFailed(f"the certificate of {self._host} {fault}")

    def name_error(self, certificate: x509.Certificate) -> Exception:
        """Return that it is for another name."""
        return DownloadFailed(f"the certificate of {self._host} is for another name")
