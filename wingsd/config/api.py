"""`api`: where the node listens, and what strangers may cost."""

from __future__ import annotations

import attrs

from wingsd.config.checks import port, positive, url_or_empty
from wingsd.config.units import Bytes, Seconds

__all__ = ["Api", "Limits", "Ssl"]


@attrs.frozen
class Ssl:
    """`api.ssl`: whether peers speak TLS to this node, and with which PEM files."""

    #: Speak TLS. Both files must be there then; they are read anew on SIGHUP.
    enabled: bool = False
    #: The certificate, and those that lead up from it to its authority.
    cert: str = ""
    #: The certificate's key, without a passphrase.
    key: str = ""


@attrs.frozen
class Limits:
    """`api.limits`: what a client may cost that nobody has let in yet."""

    #: How long a request may take from its connection, or from the answer before it, to its end;
    #: an upload: to the end of its headers (wingsd's own).
    request_timeout: Seconds = attrs.field(default=30, validator=positive)
    #: The headers of a request (wingsd's own).
    headers: int = attrs.field(default=100, validator=positive)
    #: All headers of a request together (wingsd's own).
    header_bytes: Bytes = attrs.field(default=16384, validator=positive)
    #: Connections by which nothing has been asked for yet; the oldest of the address with the
    #: most of them make way for more (wingsd's own).
    connections: int = attrs.field(default=256, validator=positive)


@attrs.frozen
class Api:
    """`api`: where the node listens."""

    #: The address to listen at; `0.0.0.0` is every one of IPv4, `::` every one
    #: of IPv4 and IPv6.
    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    #: The port to listen at, for the Panel, browsers and other nodes alike.
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: Limits = Limits()
    #: Where the Panel and other nodes reach this one, such as `https://node.example.com:8080`.
    #: Tokens for transfers must be for it; empty: for any address, since the key they are signed
    #: with is this node's alone (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)
