"""`metrics`: where Prometheus may ask how this node does."""

from __future__ import annotations

import attrs

from wingsd.config.checks import host_and_port_or_empty

__all__ = ["Metrics"]


@attrs.frozen
class Metrics:
    """`metrics`: what this node tells Prometheus (all of it wingsd's own)."""

    #: Where `GET /metrics` is answered, such as `127.0.0.1:9101`; empty: nowhere. It asks for no
    #: token and has no TLS, so it is for an address that strangers do not reach (wingsd's own).
    address: str = attrs.field(default="", validator=host_and_port_or_empty)
