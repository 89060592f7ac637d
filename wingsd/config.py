"""The node's configuration: the Panel's own `config.yml`, with Wings' defaults.

The classes below are the reference: a key's name, type and default are read from them. Keys that
only wingsd knows are marked so. Pure: reading the file is the only thing done to the world.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from wingsd.errors import ConfigError, InvalidData
from wingsd.origins import origin
from wingsd.structure import InvalidField, structure, unknown_keys
from wingsd.yamldata import read_yaml

__all__ = ["DEFAULT_PATH", "Config", "load", "parse"]

DEFAULT_PATH = "/etc/pterodactyl/config.yml"

_MAX_PORT = 65535


def _not_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value:
        raise InvalidField(attribute.name, "expected a text, found an empty one")


def _port(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not 0 < value <= _MAX_PORT:
        raise InvalidField(attribute.name, f"expected a port from 1 to {_MAX_PORT}, found {value}")


def _positive(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    if value <= 0:
        raise InvalidField(attribute.name, f"expected a number above 0, found {value}")


def _not_negative(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    if value < 0:
        raise InvalidField(attribute.name, f"expected 0 or a number above it, found {value}")


def _absolute(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.startswith("/"):
        raise InvalidField(attribute.name, f"expected an absolute path, found {value!r}")


def _url(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.startswith(("http://", "https://")):
        what = f"expected an http:// or https:// address, found {value!r}"
        raise InvalidField(attribute.name, what)


def _url_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value and not isinstance(origin(value), tuple):
        what = f"expected an address such as https://node.example.com:8080, found {value!r}"
        raise InvalidField(attribute.name, what)
    if value:
        _url(_, attribute, value)


def _keyed_by_memory(_: object, attribute: attrs.Attribute[Any], value: dict[str, float]) -> None:
    for key in value:
        if not (key.isascii() and key.isdigit()):
            raise InvalidField(
                attribute.name, f"expected whole numbers of MB as keys, found {key!r}"
            )


def _one_of(*words: str) -> Any:
    def check(_: object, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in words:
            raise InvalidField(attribute.name, f"expected one of {', '.join(words)}: {value!r}")

    return check


def _path(default: str) -> Any:
    return attrs.field(default=default, validator=_absolute)


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
    request_timeout: int = attrs.field(default=30, validator=_positive)
    #: A request's headers: how many, and the bytes of all of them together.
    headers: int = attrs.field(default=100, validator=_positive)
    header_bytes: int = attrs.field(default=16384, validator=_positive)
    #: Connections by which nothing has been asked for yet; the oldest of the address with the
    #: most of them make way for more.
    connections: int = attrs.field(default=256, validator=_positive)


@attrs.frozen
class Api:
    """`api`: where the node listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    port: int = attrs.field(default=8080, validator=_port)
    ssl: Ssl = Ssl()
    limits: Limits = Limits()
    #: Where the Panel and other nodes reach this one. Tokens for transfers must be for it; empty:
    #: for any address, since the key they are signed with is this node's alone (wingsd's own).
    public_url: str = attrs.field(default="", validator=_url_or_empty)


@attrs.frozen
class Rootless:
    """`system.user.rootless`: container ids when the engine runs without root."""

    enabled: bool = False
    container_uid: int = 0
    container_gid: int = 0


@attrs.frozen
class User:
    """`system.user`: the owner of every server's files. Looked up from `system.username`."""

    uid: int = 988
    gid: int = 988
    rootless: Rootless = Rootless()


@attrs.frozen
class Form:
    """`system.transfers.form`: bounds for the parts of an upload (all of it wingsd's own)."""

    #: More than any sender needs: an archive, a checksum, a log, and as many backups.
    parts: int = attrs.field(default=256, validator=_positive)
    #: The headers of one part: how many, and the bytes of each.
    headers: int = attrs.field(default=8, validator=_positive)
    header_bytes: int = attrs.field(default=4096, validator=_positive)


@attrs.frozen
class Transfers:
    """`system.transfers`; all of it is wingsd's own but `download_limit` (MiB/s, 0 = none)."""

    download_limit: int = 0
    #: Flush a received server to stable storage before the Panel is told (wingsd's own).
    durable: bool = True
    #: Servers received at a time, and further ones whose senders are kept waiting until it is
    #: their turn; whoever comes after them is answered 503 (wingsd's own).
    concurrent: int = attrs.field(default=8, validator=_positive)
    waiting: int = attrs.field(default=64, validator=_not_negative)
    #: Seconds a sender may be silent before its upload fails, and the bytes a second that must
    #: come from it on average over as long, while it is its turn (wingsd's own).
    stall_timeout: int = attrs.field(default=120, validator=_positive)
    least_rate: int = attrs.field(default=1024, validator=_not_negative)
    form: Form = Form()
    #: Seconds a server may take to stop before it is killed, to be sent away (wingsd's own).
    stop_grace: int = attrs.field(default=60, validator=_positive)
    #: Days that a received server is kept whose success the Panel did not want (wingsd's own).
    quarantine_days: int = attrs.field(default=30, validator=_positive)
    #: A PEM file of authorities trusted beside the system's, for the nodes that servers are sent
    #: to (wingsd's own).
    ca_file: str = ""
    #: MiB of a filesystem that received servers leave free, and never more than a twentieth of it;
    #: 0 is none (wingsd's own).
    disk_reserve: int = attrs.field(default=1024, validator=_not_negative)
    #: Files, directories and links that one archive may hold (wingsd's own).
    max_members: int = attrs.field(default=10_000_000, validator=_positive)
    #: MiB of memory for what one archive says of directories after what is in them; all else that
    #: it says of directories is kept on the disk (wingsd's own).
    directory_memory: int = attrs.field(default=16, validator=_positive)


@attrs.frozen
class Backups:
    """`system.backups`: how hard archives are compressed, those of transfers too."""

    compression_level: str = attrs.field(
        default="best_speed", validator=_one_of("none", "best_speed", "best_compression")
    )


@attrs.frozen
class System:
    """`system`: the node's directories, its user and its time zone."""

    root_directory: str = _path("/var/lib/pterodactyl")
    data: str = _path("/var/lib/pterodactyl/volumes")
    log_directory: str = _path("/var/log/pterodactyl")
    username: str = "pterodactyl"
    user: User = User()
    timezone: str = "UTC"
    #: Console lines that a browser gets when it asks for what was before.
    websocket_log_count: int = attrs.field(default=150, validator=_positive)
    #: Seconds a server may take to stop before it is killed (wingsd's own; Wings' figure).
    stop_timeout: int = attrs.field(default=600, validator=_positive)
    transfers: Transfers = Transfers()
    backups: Backups = Backups()


@attrs.frozen
class RemoteQuery:
    """`remote_query`: seconds to wait for the Panel, servers to ask for at once."""

    timeout: int = attrs.field(default=30, validator=_positive)
    boot_servers_per_page: int = attrs.field(default=50, validator=_positive)


@attrs.frozen
class IPv4:
    """`docker.network.interfaces.v4`."""

    subnet: str = "172.18.0.0/16"
    gateway: str = "172.18.0.1"


@attrs.frozen
class IPv6:
    """`docker.network.interfaces.v6`."""

    subnet: str = "fdba:17c8:6c94::/64"
    gateway: str = "fdba:17c8:6c94::1011"


@attrs.frozen
class Interfaces:
    """`docker.network.interfaces`."""

    v4: IPv4 = IPv4()
    v6: IPv6 = IPv6()


@attrs.frozen
class Network:
    """`docker.network`: the network that every server's container joins."""

    interface: str = "172.18.0.1"
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    name: str = "pterodactyl_nw"
    ispn: bool = False
    driver: str = "bridge"
    network_mode: str = "pterodactyl_nw"
    is_internal: bool = False
    enable_icc: bool = True
    network_mtu: int = 1500
    #: The host interface of the network made from these values (wingsd's own).
    bridge_name: str = "pterodactyl0"
    interfaces: Interfaces = Interfaces()


@attrs.frozen
class Registry:
    """One entry of `docker.registries`."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)


@attrs.frozen
class LogConfig:
    """`docker.log_config`: how the engine keeps a container's output."""

    type: str = "local"
    #: Scalars of any type; the engine gets them as texts.
    config: dict[str, Any] = attrs.field(
        factory=lambda: {
            "max-size": "5m",
            "max-file": "1",
            "compress": "false",
            "mode": "non-blocking",
        }
    )


@attrs.frozen
class Overhead:
    """`docker.overhead`: memory beyond the limit; `multipliers` is up to MB -> factor."""

    override: bool = False
    default_multiplier: float = 1.05
    multipliers: dict[str, float] = attrs.field(
        factory=lambda: {"2048": 1.15, "4096": 1.10}, validator=_keyed_by_memory
    )


@attrs.frozen
class Docker:
    """`docker`: the engine and what every container on this node has in common."""

    #: False makes a node of files only, without containers (wingsd's own).
    enabled: bool = True
    #: Where the engine listens; empty is `DOCKER_HOST`, else the usual socket (wingsd's own).
    socket: str = ""
    network: Network = Network()
    domainname: str = ""
    registries: dict[str, Registry] = attrs.field(factory=dict)
    tmpfs_size: int = attrs.field(default=100, validator=_positive)
    container_pid_limit: int = 512
    overhead: Overhead = Overhead()
    userns_mode: str = ""
    log_config: LogConfig = LogConfig()


@attrs.frozen
class Config:
    """The whole file. `remote` (the Panel's address), `token_id` and `token` have no defaults."""

    token_id: str = attrs.field(validator=_not_empty)
    token: str = attrs.field(validator=_not_empty, repr=False)
    remote: str = attrs.field(validator=_url)
    debug: bool = False
    app_name: str = "Pterodactyl"
    uuid: str = ""
    api: Api = Api()
    system: System = System()
    remote_query: RemoteQuery = RemoteQuery()
    docker: Docker = Docker()
    allowed_mounts: tuple[str, ...] = ()
    #: Origins of browsers, beside the Panel's own, that may open a WebSocket; `*` is any.
    allowed_origins: tuple[str, ...] = ()

    @property
    def is_pelican(self) -> bool:
        """Whether this node serves a Pelican Panel, told by the directories it was given."""
        return "/pelican" in self.system.data or "/pelican" in self.system.root_directory


def parse(text: str, source: str) -> tuple[Config, list[str]]:
    """Return the configuration written in `text` and the paths of the keys it did not know.

    `source` names the text in errors. Raises `ConfigError`.
    """
    try:
        data = read_yaml(text)
    except InvalidData as error:
        raise ConfigError(f"{source} is not YAML: {error}".rstrip(": ")) from None
    try:
        config = structure(data, Config)
    except InvalidData as error:
        raise ConfigError(f"{source} cannot be used:\n{error}") from error
    if config.api.ssl.enabled and not (config.api.ssl.cert and config.api.ssl.key):
        raise ConfigError(
            f"{source} cannot be used:\n"
            "api.ssl: expected cert and key, the paths of two PEM files, since it is enabled"
        )
    return config, unknown_keys(data, Config)


def load(path: str) -> tuple[Config, list[str]]:
    """Return what `parse` makes of the file at `path`. Raises `ConfigError`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}: save the node's configuration from the Panel there, "
            "or name another file with --config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse(text, path)
