"""The sections on where the node listens: `api`, `control` and `metrics`."""

from __future__ import annotations

import attrs

from wingsd.config.validators import (
    Bytes,
    Seconds,
    absolute_or_empty,
    host_and_port_or_empty,
    networks,
    not_negative,
    port,
    positive,
    url_or_empty,
)

__all__ = [
    "DEFAULT_SOCKET",
    "ApiConfig",
    "Control",
    "LimitsConfig",
    "Metrics",
    "RemoteDownloadConfig",
    "Ssl",
]


@attrs.frozen(repr=False)
class Ssl:
    """`api.ssl`: TLS for connections to this node, with PEM files."""

    #: Enable TLS. Both files must exist; they are read again on SIGHUP.
    enabled: bool = False
    #: The certificate and its chain up to the authority.
    cert: str = ""
    #: The certificate's key, without a passphrase.
    key: str = ""


@attrs.frozen(repr=False)
class LimitsConfig:
    """`api.limits`: limits for clients without a valid token."""

    #: The time for a request, from the connection or the previous answer to its end; for an
    #: upload, to the end of its headers (wingsd's own).
    request_timeout: Seconds = attrs.field(default=30, validator=positive)
    #: The maximum number of headers of a request (wingsd's own).
    headers: int = attrs.field(default=100, validator=positive)
    #: The maximum size of all headers of a request (wingsd's own).
    header_bytes: Bytes = attrs.field(default=16384, validator=positive)
    #: The maximum number of connections without a request yet; beyond it, the oldest connection of
    #: the address with the most of them is closed (wingsd's own).
    connections: int = attrs.field(default=256, validator=positive)


@attrs.frozen(repr=False)
class RemoteDownloadConfig:
    """`api.remote_download`: downloads from a URL into the files of a server."""

    #: The most redirects that are followed, each judged as the first URL is; 0 follows none.
    max_redirects: int = attrs.field(default=10, validator=not_negative)
    #: Hosts by name, addresses and networks that users may download from although they are not on
    #: the public Internet, such as a mirror in the node's network. Whoever can use the file
    #: manager of a server can then read what these serve (wingsd's own).
    host_allowlist: tuple[str, ...] = ()


@attrs.frozen(repr=False)
class ApiConfig:
    """`api`: where the node listens."""

    #: The address to listen at; `0.0.0.0` means all of IPv4, `::` all of IPv4 and IPv6.
    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    #: The port to listen at, for the Panel, browsers and other nodes.
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: LimitsConfig = LimitsConfig()
    #: The addresses or networks, such as `192.0.2.0/24`, of proxies in front of this node. Their
    #: headers `X-Forwarded-For` and `X-Real-IP` have the address of a client, for the activity
    #: log. List no others: what they send is taken as it is.
    trusted_proxies: tuple[str, ...] = attrs.field(default=(), validator=networks)
    #: The node's address for the Panel and other nodes, such as `https://node.example.com:8080`.
    #: Tokens for transfers must name it. Empty accepts any address, since only this node has the
    #: key they are signed with (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)
    #: The entries of a directory that Calagopus' Panel gets at a time if it does not say how many;
    #: 0 means all, up to 100,000.
    directory_entry_limit: int = attrs.field(default=10000, validator=not_negative)
    #: The most MiB of a file that is uploaded from a Panel's page; 0 means no limit. It is one of
    #: the node's settings in the Panel.
    upload_limit: int = attrs.field(default=100, validator=not_negative)
    #: How often the address of a download or an upload is good with Calagopus; 0 means always.
    #: With the other Panels it is good once.
    max_jwt_uses: int = attrs.field(default=5, validator=not_negative)
    #: Refuse downloads from a URL.
    disable_remote_download: bool = False
    remote_download: RemoteDownloadConfig = RemoteDownloadConfig()
    #: Networks that users may not download from, besides private and reserved ones and this node's
    #: own addresses, which are refused in any case.
    remote_download_blocked_cidrs: tuple[str, ...] = attrs.field(default=(), validator=networks)
    #: The downloads from a URL that one server may have at a time; 0 refuses all.
    server_remote_download_limit: int = attrs.field(default=3, validator=not_negative)


DEFAULT_SOCKET = "/run/wingsd/control.sock"


@attrs.frozen(repr=False)
class Control:
    """`control`: the control socket. Whoever can open it can do what an operator can."""

    #: The socket's path; empty disables it.
    socket: str = attrs.field(default=DEFAULT_SOCKET, validator=absolute_or_empty)
    #: The group whose members may open it; empty means the daemon's own.
    group: str = ""


@attrs.frozen(repr=False)
class Metrics:
    """`metrics`: metrics for Prometheus (all of it wingsd's own)."""

    #: The address that serves `GET /metrics`, such as `127.0.0.1:9101`; empty disables it. It has
    #: no token and no TLS, so use an address that is not reachable from outside (wingsd's own).
    address: str = attrs.field(default="", validator=host_and_port_or_empty)
