"""Which web pages may use this node: the Panel's own, and those of `allowed_origins`. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from wingsd.config import Config

__all__ = ["allows_origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def allows_origin(config: Config, origin: str) -> bool:
    """Return whether a page of `origin`, as the header `Origin` names it, may use this node."""
    here = _normal(origin)
    return any(
        allowed == "*" or _normal(allowed) == here
        for allowed in (config.remote, *config.allowed_origins)
    )


def _normal(url: str) -> tuple[str, str, int | None] | str:
    """Return scheme, host and port, the only things that count; what is no URL is just itself."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return url
    return (parts.scheme, parts.hostname, port) if parts.hostname else url
