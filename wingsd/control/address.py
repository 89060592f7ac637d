"""By which address other nodes reach this one."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from wingsd.config import Config

__all__ = ["reachable_at"]

_ANY = {"0.0.0.0", "::", ""}  # noqa: S104 - what is configured is looked at


def reachable_at(config: Config, listens: str) -> tuple[str, bool]:
    """Return an address of this node, which `listens` at that URL, and whether it is certain.

    It is that of `api.public_url`, or else a guess: by the certificate's first name, the address
    it listens at, or the machine's name. Blocking: it reads the certificate.
    """
    if config.api.public_url:
        return config.api.public_url.rstrip("/"), True
    parts = urlsplit(listens)
    host = _certified(config) or parts.hostname or ""
    if host in _ANY:
        host = platform.node()
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port or config.api.port}", False


def _certified(config: Config) -> str:
    if not config.api.ssl.enabled:
        return ""
    with suppress(OSError, ValueError, x509.ExtensionNotFound):
        certificate = x509.load_pem_x509_certificate(Path(config.api.ssl.cert).read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = map(str, extension.value.get_values_for_type(x509.IPAddress))
        return next((name for name in (*names, *addresses) if "*" not in name), "")
    return ""
