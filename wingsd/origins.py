"""What of an address says who is there: its scheme, host and port (RFC 6454). Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["Origin", "host_and_port", "origin"]

#: Scheme, host and port; of what is no address, just its text.
Origin = tuple[str, str, int | None] | str

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> Origin:
    """Return the origin of an address, the same for all ways to write it."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return url
    return (parts.scheme, parts.hostname, port) if parts.hostname else url


def host_and_port(address: str) -> tuple[str, int]:
    """Return what `host:port` names; an IPv6 host is in brackets. Raises `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.port is None or parts.netloc != address or "@" in address:
        raise ValueError(address)
    return parts.hostname, parts.port
