"""The other nodes of transfers: their clients, and TLS, which verifies their certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from wingsd.errors import ConfigError, DestinationUnreachable
from wingsd.util.certificates import (
    EXPIRED,
    NOT_YET_VALID,
    UNTRUSTED,
    CertificateVerifier,
    system_trust,
)
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.transfers.peer.client import PeerClient

__all__ = ["PeerTls", "PeerVerifier", "Peers", "peer_tls"]

NOT_GOOD = "the destination node's certificate is invalid"
#: Names of a certificate in an error.
MAX_NAMES = 5


@attrs.frozen(eq=False)
class PeerTls:
    """The trusted certificate authorities.

    These are the system's (of `SSL_CERT_FILE` and `SSL_CERT_DIR`, where they are set) and those in
    `ca_file`, if it is not empty: PEM, `system.transfers.ca_file`.
    """

    ca_file: str = ""

    def context(self) -> SSL.Context:
        """Return an OpenSSL context for connections of TLS 1.2 and above, by AEAD suites alone.

        Raises `DestinationUnreachable` when `ca_file` cannot be used.
        """
        context = system_trust()
        if self.ca_file:
            _trust(context, self.ca_file)
        return context


def _trust(context: SSL.Context, ca_file: str) -> None:
    """Raise `DestinationUnreachable` when `ca_file` cannot be used."""
    try:
        with open(ca_file, "rb"):  # OpenSSL does not say why it cannot
            context.load_verify_locations(ca_file)
    except (OSError, SSL.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        why = reason or "it holds no certificate in PEM form"
        raise DestinationUnreachable(
            "the destination node's certificate cannot be verified",
            f"system.transfers.ca_file: {ca_file} cannot be used: {why}",
        ) from error


def peer_tls(ca_file: str) -> PeerTls:
    """Return the TLS settings with `ca_file`. Raises `ConfigError` when it cannot be used.

    So that is known when the node starts, and not with its first transfer.
    """
    if ca_file:
        try:
            # Without the system's authorities, which take 10 ms to read.
            _trust(SSL.Context(SSL.TLS_METHOD), ca_file)
        except DestinationUnreachable as error:
            raise ConfigError(error.detail) from error
    return PeerTls(ca_file)


class PeerVerifier(CertificateVerifier):
    """Verifies the certificate of the other node. Its errors are `DestinationUnreachable`."""

    def chain_error(self, certificate: x509.Certificate, code: int) -> Exception:
        """Return what is wrong with the chain, and what to do."""
        return DestinationUnreachable(NOT_GOOD, _chain_fault(certificate, code, self._host))

    def name_error(self, certificate: x509.Certificate) -> Exception:
        """Return which names it is for."""
        names = ", ".join(_names(certificate)) or "no name at all"
        return DestinationUnreachable(
            NOT_GOOD,
            f"it is for {names}, and the Panel calls that node {self._host}; install a "
            f"certificate for that name, or correct the node's address in the Panel",
        )


def _chain_fault(certificate: x509.Certificate, code: int, host: str) -> str:
    """Return what is wrong with a certificate that OpenSSL does not accept, and what to do."""
    if code == EXPIRED:
        end = certificate.not_valid_after_utc
        return f"it expired on {end:%Y-%m-%d at %H:%M} UTC; renew it on {host}"
    if code == NOT_YET_VALID:
        begin = certificate.not_valid_before_utc
        return (
            f"it is not valid before {begin:%Y-%m-%d, %H:%M} UTC, which this node's clock has not "
            "reached; set the clocks of both nodes"
        )
    if code in UNTRUSTED:
        return (
            f"{host} shows one issued by {_common_name(certificate.issuer)}, which this node does "
            "not trust; for a private authority, let system.transfers.ca_file in this node's "
            "configuration name a file with its certificate, else use one of a public authority"
        )
    return f"OpenSSL refuses that of {host} (verification error {code}); get a new one there"


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return f'"{found[0].value!s}"' if found else f'"{name.rfc4514_string()}"'


def _names(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that the certificate is for, the first of them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*names, *map(str, addresses)][:MAX_NAMES]


@attrs.frozen(eq=False, repr=False)
class Peers:
    """The other nodes, connected to by this reactor and verified by `tls`."""

    reactor: Reactor
    tls: PeerTls

    def client(
        self, url: str, authorization: str, address_source: str = "in the Panel"
    ) -> PeerClient:
        """Return a client of the node at `url`. Raises the errors of `PeerClient`."""
        # Here, since many nodes never send, and h11 compiles its expressions when it is imported.
        from wingsd.transfers.peer.client import PeerClient  # noqa: PLC0415

        return PeerClient(url, authorization, self.reactor, self.tls, address_source)
