"""`api`, `control` and `metrics`: where the node listens, and what clients may cost."""

from __future__ import annotations

import attrs

from wingsd.config.validators import (
    Bytes,
    Seconds,
    absolute_or_empty,
    host_and_port_or_empty,
    port,
    positive,
    url_or_empty,
)

__all__ = ["DEFAULT_SOCKET", "ApiConfig", "Control", "LimitsConfig", "Metrics", "Ssl"]


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
class LimitsConfig:
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
class ApiConfig:
    """`api`: where the node listens."""

    #: The address to listen at; `0.0.0.0` is every one of IPv4, `::` every one
    #: of IPv4 and IPv6.
    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    #: The port to listen at, for the Panel, browsers and other nodes alike.
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: LimitsConfig = LimitsConfig()
    #: Where the Panel and other nodes reach this one, such as `https://node.example.com:8080`.
    #: Tokens for transfers must be for it; empty: for any address, since the key they are signed
    #: with is this node's alone (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)


DEFAULT_SOCKET = "/run/wingsd/control.sock"


@attrs.frozen
class Control:
    """`control`: who may open the socket may do what an operator may, and see every server."""

    #: The socket's path; empty is none.
    socket: str = attrs.field(default=DEFAULT_SOCKET, validator=absolute_or_empty)
    #: The group whose members may open it; empty is the daemon's own.
    group: str = ""


@attrs.frozen
class Metrics:
    """`metrics`: what this node tells Prometheus (all of it wingsd's own)."""

    #: Where `GET /metrics` is answered, such as `127.0.0.1:9101`; empty: nowhere. It asks for no
    #: token and has no TLS, so it is for an address that strangers do not reach (wingsd's own).
    address: str = attrs.field(default="", validator=host_and_port_or_empty)
