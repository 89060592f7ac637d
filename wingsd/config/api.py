"""`api`: where the node listens, and what strangers may cost."""

from __future__ import annotations

import attrs

from wingsd.config.checks import port, positive, url_or_empty

__all__ = ["Api", "Limits", "Ssl"]


@attrs.frozen
class Ssl:
    """`api.ssl`: whether peers speak TLS to this node, and with which PEM files."""

    enabled: bool = False
    cert: str = ""
    key: str = ""


@attrs.frozen
class Limits:
    """`api.limits`: what a client may cost that nobody has let in yet (all of it wingsd's own)."""

    #: Seconds that a request may take from its connection, or from the answer before it, to its
    #: end; an upload: to the end of its headers.
    request_timeout: int = attrs.field(default=30, validator=positive)
    #: A request's headers: how many, and the bytes of all of them together.
    headers: int = attrs.field(default=100, validator=positive)
    header_bytes: int = attrs.field(default=16384, validator=positive)
    #: Connections by which nothing has been asked for yet; the oldest of the address with the
    #: most of them make way for more.
    connections: int = attrs.field(default=256, validator=positive)


@attrs.frozen
class Api:
    """`api`: where the node listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: Limits = Limits()
    #: Where the Panel and other nodes reach this one. Tokens for transfers must be for it; empty:
    #: for any address, since the key they are signed with is this node's alone (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)
