"""What the certificates are worth that a configuration names, by the daemon's own means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from wingsd.config import Config
from wingsd.errors import ConfigError
from wingsd.tls import ServerCertificate
from wingsd.transfers.trust import checked

__all__ = ["check_certificates"]

#: A certificate that ends sooner is told of.
SOON = timedelta(days=14)


def check_certificates(config: Config) -> tuple[list[str], list[str]]:
    """Return what keeps the daemon from starting, and what may become a trouble."""
    errors: list[str] = []
    warnings: list[str] = []
    try:
        checked(config.system.transfers.ca_file)
    except ConfigError as error:
        errors.append(str(error))
    ssl = config.api.ssl
    if ssl.enabled:
        try:
            ServerCertificate(ssl.cert, ssl.key)
        except ConfigError as error:
            errors.append(str(error))
        else:
            warnings += _age(ssl.cert)
    return errors, warnings


def _age(path: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    ends, now = certificate.not_valid_after_utc, datetime.now(UTC)
    if ends > now + SOON:
        return []
    word = "has expired" if ends < now else "expires"
    return [f"api.ssl.cert: {path} {word} on {ends:%Y-%m-%d at %H:%M} UTC"]
