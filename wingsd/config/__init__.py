"""The node's configuration: the Panel's own `config.yml`, with Wings' defaults.

The classes here are the reference: a key's name, type and default are read from them. Keys that
only wingsd knows are marked so. `parse` and `load` read a file, and `differences` compares two.
`LiveConfig` is the configuration in force, which a reload changes in part while the daemon runs.

PyYAML reports errors of syntax with their place. For a value that does not fit its form or tag
(`2001-99-99`, `!!int x`) it raises various errors of Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import attrs
import yaml

from wingsd import __release__, __version__
from wingsd.errors import ConfigError, InvalidData
from wingsd.util.addresses import parse_network
from wingsd.util.serialization import InvalidField, Span, structure, unknown_keys
from wingsd.util.text import canonical_uuid, host_and_port, origin

# The families of Panels and nodes: how one is recognized, and its keys that are not used here. The
# keys are those that Panels print, and that the families' node daemons write back into the file
# with their defaults. A key that is used becomes a field of the classes below.

PTERODACTYL = "pterodactyl"
PELICAN = "pelican"
CALAGOPUS = "calagopus"
FAMILIES = (PTERODACTYL, PELICAN, CALAGOPUS)

#: The family's node daemon, as it names itself to its Panel. Sources: remote/http.go of
#: Pterodactyl's and Pelican's Wings, remote/client.rs of Calagopus' node.
_DAEMONS: Mapping[str, str] = {
    PTERODACTYL: "Pterodactyl Wings",
    PELICAN: "Pelican Wings",
    CALAGOPUS: "calagopus wings",
}

#: The User-Agent of downloads that users request from servers on the Internet.
_USER_AGENTS: Mapping[str, str] = {
    PTERODACTYL: "Pterodactyl Panel (https://pterodactyl.io)",
    PELICAN: "Pelican Panel (https://pelican.dev)",
}

#: Defaults that differ from Pterodactyl's, for keys that a Panel does not print; those of a
#: section as a map. Sources: config/ of Pelican's Wings, config.rs of Calagopus' node.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    PELICAN: {
        "app_name": "Pelican",
        "system": {
            "log_directory": "/var/log/pelican",
            "backup_directory": "/var/lib/pelican/backups",
            "history": {"directory": "/var/lib/pelican/history"},
            "machine_id": {"directory": "/etc/pelican/machine-id"},
            "tmp_directory": "/tmp/pelican",  # noqa: S108 - Pelican's default
        },
        "docker": {
            "network": {
                "name": "pelican_nw",
                "network_mode": "pelican_nw",
                "bridge_name": "pelican0",
            }
        },
    },
    CALAGOPUS: {
        "system": {
            "sftp": {
                "limits": {
                    "authentication_password_attempts": 3,
                    "max_handles_per_channel": 32,
                }
            }
        }
    },
}


def family_of(named: str, traces: Iterable[str]) -> str:
    """Return the family `named` or, if that is empty, the first that is named in `traces`.

    Traces are the place of the configuration, its directories, and the name of the Panel. The
    default is Pterodactyl.
    """
    text = " ".join(traces).lower()
    found = (family for family in (PELICAN, CALAGOPUS) if family in text)
    return named or next(found, PTERODACTYL)


def family_of_panel(settings: Mapping[str, Any]) -> str:
    """Return the family of the Panel that describes a server so; empty if it is not known.

    Sources: ServerConfigurationStructureService of Pterodactyl's and Pelican's Panels,
    `ServerConfiguration` of Calagopus' (api-clients/wings-api).
    """
    build = settings.get("build") or {}
    if "oom_killer" in build:
        return PELICAN
    if "schedules" in settings:
        return CALAGOPUS
    return PTERODACTYL if "oom_disabled" in build else ""


def user_agent_of(family: str) -> str:
    """Return what a family's node names itself as to servers that users download from."""
    return _USER_AGENTS.get(family, f"wingsd/{__version__}")


def node_agent_of(family: str, token_id: str) -> str:
    """Return the User-Agent of a family's node towards its Panel, with the version of wingsd.

    Pelican's Panel accepts no answer without one, and of a release none with another node's
    `token_id` (DaemonRepository::enforceValidNodeToken).
    """
    return f"{_DAEMONS.get(family, _DAEMONS[PTERODACTYL])}/v{__version__} (id:{token_id})"


def version_for(family: str) -> str:
    """Return the version of the node that a family's Panel is sent.

    - Pelican's compares it with the last of its own Wings, and takes `develop` for that
      (SoftwareVersionService::isLatestWings).
    - Calagopus' reads only versions of semver (shared/src/updates.rs): a development version
      would count as a node that does not answer.
    - Pterodactyl's shows it.
    """
    return {PELICAN: "develop", CALAGOPUS: __release__}.get(family, __version__)


#: The names of keys by the dotted path of the section that they are in.
_NAMES: Mapping[str, str] = {
    "": "quiet BlockBaseDirMount",
    "remote_query": "retry_limit",
    "api": (
        "disable_openapi_docs "
        "disable_directory_size send_offline_server_logs "
        "file_search_threads file_decompression_threads "
        "file_compression_threads"
    ),
    "system": (
        "archive_directory enable_log_rotate "
        "check_permissions_on_boot_threads disk_check_threads disk_limiter_mode"
    ),
    "system.websocket": (
        "max_message_size max_frame_size read_buffer_size authentication_timeout "
        "unauthenticated_connections_per_ip max_connections_total"
    ),
    "system.sftp": "key_algorithm",
    "system.sftp.shell": "enabled",
    "system.sftp.shell.cli": "name",
    "system.backups": "read_limit",
    "system.backups.mounting": "enabled path",
    "system.backups.wings": "create_threads restore_threads",
    "system.backups.s3": "create_threads",
    "system.backups.ddup_bak": "create_threads compression_format",
    "system.backups.restic": "repository password_file retry_lock_seconds environment",
    "system.backups.btrfs": "restore_threads create_read_only",
    "system.backups.zfs": "restore_threads",
    "docker": "use_performant_inspect delete_container_on_stop",
    "docker.network": "disable_interface_binding",
}
UNUSED = frozenset(
    f"{section}.{name}".lstrip(".") for section, names in _NAMES.items() for name in names.split()
)
#: Keys that may be left unused as long as they have the value that the families write by default.
#: With another, this node does not do what the key asks for.
UNUSED_BY_DEFAULT: Mapping[str, object] = {
    "remote_headers": {},
    "remote_query.custom_headers": {},
    "docker.network.IPv6": True,
    "docker.network.mode": "pterodactyl_nw",
}


# The units and checks of values. A check's docstring is what the reference says of it.

Bytes = Annotated[int, "bytes"]
BytesPerSecond = Annotated[int, "bytes a second"]
Days = Annotated[int, "days"]
MiB = Annotated[int, "MiB"]
MiBPerSecond = Annotated[int, "MiB/s"]
Seconds = Annotated[int, "seconds"]
Milliseconds = Annotated[int, "milliseconds"]


_MAX_PORT = 65535
_MAX_NICE = 19


def _refuse(attribute: attrs.Attribute[Any], expected: str, found: object) -> NoReturn:
    raise InvalidField(attribute.name, f"expected {expected}, found {found!r}") from None


def not_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Non-empty."""
    if not value:
        raise InvalidField(attribute.name, "must not be empty")


def port(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    """1 to 65535."""
    if not 0 < value <= _MAX_PORT:
        _refuse(attribute, f"a port from 1 to {_MAX_PORT}", value)


def positive(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    """At least 1."""
    if value <= 0:
        _refuse(attribute, "a number above 0", value)


def ip_addresses(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """Addresses of IPv4 or IPv6."""
    for text in value:
        try:
            ip_address(text)
        except ValueError:
            _refuse(attribute, "IP addresses", text)


def not_negative(_: object, attribute: attrs.Attribute[int], value: float) -> None:
    """0 or more."""
    if value < 0:
        _refuse(attribute, "0 or more", value)


def part_of_one(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Above 0, at most 1."""
    if not 0 < value <= 1:
        _refuse(attribute, "a number above 0 and at most 1", value)


def nice_value(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    """0 to 19."""
    if not 0 <= value <= _MAX_NICE:
        _refuse(attribute, f"a nice value from 0 to {_MAX_NICE}", value)


def absolute(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An absolute path."""
    if not value.startswith("/"):
        _refuse(attribute, "an absolute path", value)


def absolute_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An absolute path, or empty."""
    if value:
        absolute(_, attribute, value)


def header_text(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """Printable ASCII, without spaces at its ends."""
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        _refuse(attribute, "printable ASCII without spaces at the ends", value)


def console_line(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """One line."""
    if value and not (value.isprintable() and value.strip()):
        _refuse(attribute, "one printable line", value)


#: Characters of an address; a header has to hold it.
_MAX_URL = 2000


def url(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An http:// or https:// address."""
    is_usual = value.isprintable() and " " not in value and len(value) <= _MAX_URL
    if not (is_usual and value.startswith(("http://", "https://")) and _has_host(value)):
        _refuse(attribute, "an http:// or https:// address", value)


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def url_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """An http:// or https:// address without a path."""
    if value and not isinstance(origin(value), tuple):
        _refuse(attribute, "an address such as https://node.example.com:8080", value)
    if value:
        url(_, attribute, value)


def host_and_port_or_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    """A host and a port."""
    try:
        if value:
            host_and_port(value)
    except ValueError:
        _refuse(attribute, "an address such as 127.0.0.1:9101 or [::1]:9101", value)


def networks(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """Addresses or networks such as 192.0.2.0/24."""
    for text in value:
        try:
            parse_network(text)
        except ValueError:
            _refuse(attribute, "addresses, or networks such as 192.0.2.0/24", text)


def keyed_by_memory(_: object, attribute: attrs.Attribute[Any], value: dict[str, float]) -> None:
    """Keys are whole numbers of MB."""
    for key in value:
        if not (key.isascii() and key.isdigit()):
            _refuse(attribute, "whole numbers of MB as keys", key)


def at_most(most: int) -> Any:
    """Return the check that a number is from 1 to `most`."""

    def check(_: object, attribute: attrs.Attribute[int], value: int) -> None:
        if not 0 < value <= most:
            _refuse(attribute, f"a number from 1 to {most}", value)

    check.__doc__ = f"1 to {most}."
    return check


def one_of(*words: str) -> Any:
    """Return the check that a text is one of `words`."""
    expected = f"one of {', '.join(filter(None, words))}"

    def check(_: object, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in words:
            _refuse(attribute, expected, value)

    check.__doc__ = f"O{expected[1:]}."
    return check


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_SPAN = re.compile(r"(\d{1,9})([smhd]?)", re.ASCII).fullmatch


def seconds_of(text: str) -> int | None:
    """Return the seconds of a time such as 90, 90s, 5m, 12h or 7d; None for another text."""
    found = _SPAN(text)
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def span(_: object, attribute: attrs.Attribute[Span], value: str) -> None:
    """Seconds, or a time such as 30s, 5m, 12h or 7d."""
    if seconds_of(value) is None:
        _refuse(attribute, "a time such as 30s, 5m, 12h or 7d", value)


def span_or_empty(_: object, attribute: attrs.Attribute[Span], value: str) -> None:
    """Seconds, or a time such as 30s, 5m, 12h or 7d."""
    if value:
        span(_, attribute, value)


def counts_by_span(_: object, attribute: attrs.Attribute[Any], value: dict[str, int]) -> None:
    """Times such as 24h or 30d, each with a number of at least 1."""
    for key, count in value.items():
        if not seconds_of(key):
            _refuse(attribute, "times such as 24h or 30d as keys", key)
        if count < 1:
            _refuse(attribute, f"a number of at least 1 for {key}", count)


def keyed_by_server(_: object, attribute: attrs.Attribute[Any], value: dict[str, Any]) -> None:
    """Keys are UUIDs of servers."""
    for key in value:
        if canonical_uuid(key) != key:
            _refuse(attribute, "UUIDs of servers in lower case as keys", key)


def path_field(default: str) -> Any:
    """Return the field of an absolute path."""
    return attrs.field(default=default, validator=absolute)


# The sections, from the innermost to the whole file.


@attrs.frozen(repr=False)
class FormConfig:
    """`system.transfers.form`: limits for the parts of an upload."""

    #: Parts of one upload: archive, checksum, log, and backups with their checksums (wingsd's
    #: own).
    parts: int = attrs.field(default=256, validator=positive)
    #: Headers of one part (wingsd's own).
    headers: int = attrs.field(default=8, validator=positive)
    #: The size of one header (wingsd's own).
    header_bytes: Bytes = attrs.field(default=4096, validator=positive)


@attrs.frozen(repr=False)
class StreamsConfig:
    """`system.transfers.streams`: transfers of one server in several simultaneous requests."""

    #: Streams beside the first, received for one server, or sent if the Panel asks for them (7 at
    #: most); 0 means none. While a received one is read, it takes a slot of `concurrent` and the
    #: memory of one upload (wingsd's own).
    most: int = attrs.field(default=16, validator=not_negative)
    #: The time after the first stream within which all others must arrive, or all fail (wingsd's
    #: own).
    within: Seconds = attrs.field(default=60, validator=positive)


@attrs.frozen(repr=False)
class MovesConfig:
    """`system.transfers.moves`: moves that resume, between two nodes of wingsd."""

    #: Send and receive servers in batches that arrive once, whatever breaks. Otherwise they are
    #: sent as one stream (wingsd's own).
    enabled: bool = True
    #: The time without any progress after which a move fails. The destination waits five minutes
    #: longer for its source (wingsd's own).
    patience: Seconds = attrs.field(default=3600, validator=positive)
    #: The maximum size of a batch, the body of one request; the lower value of the two nodes
    #: counts. A break costs the batches under way, and the source has up to six in memory
    #: (wingsd's own).
    batch: MiB = attrs.field(default=6, validator=at_most(64))
    #: Batches of a move under way at the same time; the lower value of the two nodes counts
    #: (wingsd's own).
    streams: int = attrs.field(default=2, validator=at_most(8))
    #: Read a received server back from the disk, past the page cache, and compare it with what was
    #: sent, before it is put into place (wingsd's own).
    reread: bool = True
    #: How long the incomplete copy of a failed move is kept for the next transfer of the server; 0
    #: keeps nothing (wingsd's own).
    keep_days: Days = attrs.field(default=7, validator=not_negative)
    #: The size that all such copies together may have, without the newest one; the oldest is
    #: removed first. 0 means a tenth of the filesystem of `system.data` (wingsd's own).
    keep_bytes: Bytes = attrs.field(default=0, validator=not_negative)


@attrs.frozen(repr=False)
class LiveMovesConfig:
    """`system.transfers.live`: moves of running servers, between two nodes of wingsd."""

    #: Send a running server's files in rounds, and stop it only for the last one. It needs
    #: `system.transfers.moves.enabled` (wingsd's own).
    enabled: bool = True
    #: The server is stopped when the rest can be sent within this time, or when more rounds do not
    #: make it less (wingsd's own).
    target_downtime: Seconds = attrs.field(default=2, validator=positive)
    #: The server is not stopped while the rest would take longer than this, whatever the next two
    #: keys say: rounds go on, two a minute, in one of the node's eight slots for sending. 0 means
    #: no limit (wingsd's own).
    max_downtime: Seconds = attrs.field(default=0, validator=not_negative)
    #: Rounds after which the server is stopped; 0 means no limit (wingsd's own).
    max_rounds: int = attrs.field(default=30, validator=not_negative)
    #: The time from the end of the first round after which the server is stopped; 0 means no
    #: limit (wingsd's own).
    max_seconds: Seconds = attrs.field(default=86_400, validator=not_negative)
    #: How long the last round of a stopped server may make no progress. Then the server is started
    #: again, and rounds go on; after three times the transfer fails (wingsd's own).
    final_patience: Seconds = attrs.field(default=120, validator=positive)
    #: Start a server that was running when it was moved here, once the Panel has accepted the
    #: success (wingsd's own).
    start: bool = True
    #: The part of `upload_limit` that rounds of running servers use together while others are sent
    #: (wingsd's own).
    share: float = attrs.field(default=0.8, validator=part_of_one)
    #: How often the copy of `wingsctl send --follow` is brought up to date; less often where that
    #: takes more than half of this time (wingsd's own).
    follow_every: Seconds = attrs.field(default=60, validator=positive)
    #: A command for the console of a running server just before it is stopped for the last round,
    #: such as `say Back in {seconds} s`, with the predicted time; empty means none (wingsd's own).
    announce: str = attrs.field(default="", validator=console_line)
    #: `auto`: the last round does not read files again that provably are as they were sent.
    #: `never`: it reads all files, and the server is down for longer (wingsd's own).
    trust: str = attrs.field(default="auto", validator=one_of("auto", "never"))
    #: How long the files of a server that was moved while it ran, or by `wingsctl evacuate`, stay
    #: in quarantine at the source; 0 deletes them at once. Local backups of a server that has
    #: moved stay as long, but at least a day, where the Panel has no record of them (wingsd's
    #: own).
    keep_source_days: Days = attrs.field(default=1, validator=not_negative)


@attrs.frozen(repr=False)
class StoragePool:
    """`system.transfers.storage_pool`: a volume that several nodes share (Pelican's)."""

    #: Other nodes share the volume of `system.data`: between them a server moves without being
    #: copied, and its files stay when the Panel has it deleted at the source. It needs `uuid`.
    enabled: bool = False
    #: The name of the pool, the same on all of its nodes; case does not matter.
    pool_name: str = attrs.field(default="", validator=header_text)

    @property
    def name(self) -> str:
        """The pool's name, empty without a pool."""
        return self.pool_name if self.enabled else ""


@attrs.frozen(repr=False)
class TransfersConfig:
    """`system.transfers`: moving servers."""

    #: The rate at which all servers together are received; 0 or less means no limit.
    download_limit: MiBPerSecond = 0
    #: The rate at which all servers together are sent; 0 means no limit (wingsd's own).
    upload_limit: MiBPerSecond = attrs.field(default=0, validator=not_negative)
    #: The nice value of the threads that pack and unpack archives. Their I/O priority follows it,
    #: ioprio_set(2). Containers have control groups of their own: to yield to them, give the
    #: daemon's unit a low `CPUWeight=` and `IOWeight=` (wingsd's own).
    nice: int = attrs.field(default=10, validator=nice_value)
    #: Flush a received server to stable storage before its arrival is reported to the Panel, which
    #: then deletes the other copy. Disable it only if a server may be lost (wingsd's own).
    durable: bool = True
    #: Servers received at the same time: slots, of which one server gets half at most (wingsd's
    #: own).
    concurrent: int = attrs.field(default=8, validator=positive)
    #: Further uploads that may wait for a slot, while their senders are slowed down; 0 means none.
    #: More uploads get 503 with `Retry-After` (wingsd's own).
    waiting: int = attrs.field(default=64, validator=not_negative)
    #: An upload fails when nothing comes from its sender, or its destination acknowledges nothing,
    #: for this time (wingsd's own).
    stall_timeout: Seconds = attrs.field(default=120, validator=positive)
    #: The minimum average rate of a sender over `stall_timeout`, while it has a slot; 0 means none
    #: (wingsd's own).
    least_rate: BytesPerSecond = attrs.field(default=1024, validator=not_negative)
    #: The time for a destination that has everything to finish after its answer was lost, for
    #: example by a proxy's time limit. 0 means none (wingsd's own).
    answer_grace: Seconds = attrs.field(default=600, validator=not_negative)
    #: The time to wait for the answer of a destination that has everything, before the Panel is
    #: asked which node has the server; 0 means no limit (wingsd's own).
    answer_timeout: Seconds = attrs.field(default=4 * 3600, validator=not_negative)
    form: FormConfig = FormConfig()
    streams: StreamsConfig = StreamsConfig()
    moves: MovesConfig = MovesConfig()
    live: LiveMovesConfig = LiveMovesConfig()
    storage_pool: StoragePool = StoragePool()
    #: Send the local backups of a server that has moved after it. Both nodes must run wingsd and
    #: have it on. Not with Calagopus, whose Panel lists with its order what moves (wingsd's own).
    backups_follow: bool = True
    #: The time for a server to stop for its transfer before it is killed (wingsd's own).
    stop_grace: Seconds = attrs.field(default=60, validator=positive)
    #: How long complete copies of servers that the Panel assigns to another node stay in
    #: quarantine (wingsd's own).
    quarantine_days: Days = attrs.field(default=30, validator=positive)
    #: A PEM file of certificate authorities to trust for destinations, besides the system's
    #: (wingsd's own).
    ca_file: str = ""
    #: The space that received servers leave free on the filesystem of `system.data`, at most a
    #: twentieth of it; 0 means none (wingsd's own).
    disk_reserve: MiB = attrs.field(default=1024, validator=not_negative)
    #: The inodes that received servers leave free on that filesystem, at most a twentieth; 0 means
    #: none (wingsd's own).
    inode_reserve: int = attrs.field(default=20_000, validator=not_negative)
    #: Files, directories and links in one archive, or in one move (wingsd's own).
    max_members: int = attrs.field(default=10_000_000, validator=positive)
    #: The memory for metadata of directories that an archive lists after their contents; the rest
    #: is kept on the disk (wingsd's own).
    directory_memory: MiB = attrs.field(default=16, validator=positive)


@attrs.frozen(repr=False)
class SftpLimits:
    """`system.sftp.limits`: limits for clients and users."""

    #: Passwords that a client may try in one connection; and those of one address that may be
    #: refused for one user name within `authentication_cooldown`, ten times as many for all names.
    authentication_password_attempts: int = attrs.field(default=6, validator=positive)
    #: Public keys that a client may offer in one connection. From one address, ten times as many
    #: may be refused within `authentication_cooldown`.
    authentication_pubkey_attempts: int = attrs.field(default=20, validator=positive)
    #: The time for which refusals count.
    authentication_cooldown: Seconds = attrs.field(default=60, validator=positive)
    #: Connections of one user; 0 means no limit. One more waits ten seconds for another to end,
    #: and is closed if none does.
    max_connections_per_user: int = attrs.field(default=32, validator=not_negative)
    #: Connections to one server, likewise (wingsd's own).
    max_connections_per_server: int = attrs.field(default=64, validator=not_negative)
    #: Channels of one connection.
    max_channels_per_connection: int = attrs.field(default=10, validator=positive)
    #: Open files and directories of one channel.
    max_handles_per_channel: int = attrs.field(default=128, validator=positive)
    #: Open files and directories of all channels.
    max_handles_total: int = attrs.field(default=1024, validator=positive)
    #: Connections in all (wingsd's own).
    max_connections: int = attrs.field(default=256, validator=positive)
    #: Connections that are not logged in, at most half of them from one address. One more closes
    #: the oldest of that address, or of the one with the most (wingsd's own).
    max_half_open: int = attrs.field(default=128, validator=positive)


@attrs.frozen(repr=False)
class SftpActivityConfig:
    """`system.sftp.activity`: further events of the activity log (Calagopus')."""

    #: Report each login: `server:sftp.login`.
    log_logins: bool = False
    #: Report each file opened for reading: `server:sftp.read`.
    log_file_reads: bool = False


@attrs.frozen(repr=False)
class SftpConfig:
    """`system.sftp`: access to the files of servers by SFTP."""

    #: Run the SFTP server.
    enabled: bool = True
    #: The address to listen on.
    bind_address: str = attrs.field(default="0.0.0.0", validator=not_empty)  # noqa: S104 - Wings'
    #: The port to listen on.
    bind_port: int = attrs.field(default=2022, validator=port)
    #: Refuse all changes.
    read_only: bool = False
    #: Accept public keys only, and no passwords (Pelican's key).
    key_only: bool = False
    #: Calagopus' name for `key_only`.
    disable_password_auth: bool = False
    #: Entries of a directory that are listed; further ones are left out.
    directory_entry_limit: int = attrs.field(default=20_000, validator=positive)
    #: Entries in one answer to a client.
    directory_entry_send_amount: int = attrs.field(default=500, validator=positive)
    #: How often the Panel is asked again whether the user of an open session may go on; 0 means
    #: never (wingsd's own).
    check_interval: Seconds = attrs.field(default=300, validator=not_negative)
    #: The time after the last connection until the process that serves SFTP ends (wingsd's own).
    idle_timeout: Seconds = attrs.field(default=300, validator=positive)
    limits: SftpLimits = SftpLimits()
    activity: SftpActivityConfig = SftpActivityConfig()

    @property
    def passwords(self) -> bool:
        """True if users can log in with a password."""
        return not (self.key_only or self.disable_password_auth)


@attrs.frozen(repr=False)
class CrashDetectionConfig:
    """`system.crash_detection`: restarting servers whose program has ended by itself."""

    #: Start such a server again. `crash_detection_enabled` in a server's settings overrides it.
    enabled: bool = True
    #: Start it again also after the exit code 0, as after a stop within the game.
    detect_clean_exit_as_crash: bool = True
    #: A server that ends within this time after it was started again stays off; with 0 it is
    #: always started again.
    timeout: Seconds = attrs.field(default=60, validator=not_negative)


@attrs.frozen(repr=False)
class ThrottlesConfig:
    """`throttles`: the limit of the lines that one server may write into its console.

    Further lines are left out, and the console says so. More than 1 MiB a second is never passed
    on.
    """

    #: Limit the lines.
    enabled: bool = True
    #: Lines that pass in one `line_reset_interval`. In one second at most as many pass, or 2,000
    #: if that is more.
    lines: int = attrs.field(default=2000, validator=not_negative)
    #: The time after which the count begins again; 0 disables this limit.
    line_reset_interval: Milliseconds = attrs.field(default=100, validator=not_negative)


@attrs.frozen(repr=False)
class SearchConfig:
    """`Search`: searches for names of files, from the file manager of Pelican's Panel."""

    #: Names of directories that are left out, with all below them; case does not matter.
    blacklisted_dirs: tuple[str, ...] = (
        "node_modules",
        ".git",
        ".wine",
        "appcache",
        "depotcache",
        "vendor",
    )
    #: Levels below its directory that a search looks at; 0 means none.
    max_recursion_depth: int = attrs.field(default=8, validator=not_negative)


@attrs.frozen(repr=False)
class PasswdConfig:
    """`system.passwd`: `/etc/passwd` and `/etc/group` in containers; not with Pelican."""

    #: As `system.user.passwd.enable`.
    enabled: bool = False
    #: The host's directory of both files.
    directory: str = path_field("/run/wings/etc")


@attrs.frozen(repr=False)
class PelicanPasswdConfig:
    """`system.user.passwd`: `/etc/passwd` and `/etc/group` in containers, with Pelican."""

    #: Mount these files, with the user and the group of the container.
    enable: bool = True
    #: The host's directory of both files.
    directory: str = path_field("/etc/pelican")


@attrs.frozen(repr=False)
class MachineIdConfig:
    """`system.machine_id`: an id of the machine for each container, which some games need."""

    #: Mount a file with the server's UUID, without dashes, as `/etc/machine-id`.
    enable: bool = True
    #: Calagopus' name for `enable`. Both must be true.
    enabled: bool = True
    #: The host's directory of these files.
    directory: str = path_field("/run/wings/machine-id")


@attrs.frozen(repr=False)
class InstallerLimits:
    """`docker.installer_limits`: the container that runs an egg's installation script."""

    #: Its memory, unless the server has more. 0 here or for the server means no limit.
    memory: MiB = attrs.field(default=1024, validator=not_negative)
    #: Its CPU in percent of one core, with the same exceptions.
    cpu: int = attrs.field(default=100, validator=not_negative)
    #: The time for a script, also across restarts of the node. After it the installation has
    #: failed. 0 means no limit.
    timeout: Seconds = attrs.field(default=1800, validator=not_negative)


@attrs.frozen(repr=False)
class IPv4:
    """`docker.network.interfaces.v4`: the IPv4 addresses of the created network."""

    #: The network.
    subnet: str = "172.18.0.0/16"
    #: The host's address in it.
    gateway: str = "172.18.0.1"


@attrs.frozen(repr=False)
class IPv6:
    """`docker.network.interfaces.v6`: the IPv6 addresses of the created network."""

    #: The network; empty means no IPv6.
    subnet: str = "fdba:17c8:6c94::/64"
    #: The host's address in it.
    gateway: str = "fdba:17c8:6c94::1011"


@attrs.frozen(repr=False)
class Interfaces:
    """`docker.network.interfaces`: the addresses of the created network."""

    v4: IPv4 = IPv4()
    v6: IPv6 = IPv6()


@attrs.frozen(repr=False)
class NetworkConfig:
    """`docker.network`: the network that every server's container joins."""

    #: The host's address in the network. It replaces 127.0.0.1 as a server's address.
    interface: str = "172.18.0.1"
    #: Name servers of containers.
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    #: The network to create if it is missing and `network_mode` names it. With Pelican, a node
    #: that already has `pterodactyl_nw` keeps using it.
    name: str = "pterodactyl_nw"
    #: Bind no ports to 127.0.0.1.
    ispn: bool = False
    #: Driver of the created network.
    driver: str = "bridge"
    #: The network that containers join: `name`, another existing one, or a mode such as `host`.
    network_mode: str = "pterodactyl_nw"
    #: Create the network without access to the outside.
    is_internal: bool = False
    #: Allow connections between containers of the created network.
    enable_icc: bool = True
    #: MTU of the created network.
    network_mtu: Bytes = 1500
    #: Host interface of the created network (wingsd's own).
    bridge_name: str = "pterodactyl0"
    interfaces: Interfaces = Interfaces()


@attrs.frozen(repr=False)
class Registry:
    """`docker.registries.*`: the credentials for one registry, by its host."""

    #: The user name.
    username: str = ""
    #: The password or token.
    password: str = attrs.field(default="", repr=False)


@attrs.frozen(repr=False)
class LogConfig:
    """`docker.log_config`: the output of containers, which the engine keeps."""

    #: The engine's logging driver.
    type: str = "local"
    #: The driver's options, passed to the engine as text.
    config: dict[str, Any] = attrs.field(
        factory=lambda: {
            "max-size": "5m",
            "max-file": "1",
            "compress": "false",
            "mode": "non-blocking",
        }
    )


@attrs.frozen(repr=False)
class Overhead:
    """`docker.overhead`: factors by which a container gets more memory than its server's limit."""

    #: Use these factors instead of the defaults.
    override: bool = False
    #: The factor for limits above those in `multipliers`.
    default_multiplier: float = 1.05
    #: Memory limits in MB, each with the factor for limits up to it.
    multipliers: dict[str, float] = attrs.field(
        factory=lambda: {"2048": 1.15, "4096": 1.10}, validator=keyed_by_memory
    )


@attrs.frozen(repr=False)
class DockerConfig:
    """`docker`: the engine, and settings of all containers on this node."""

    #: `false` is for a node that only keeps files, without containers (wingsd's own).
    enabled: bool = True
    #: The engine's socket, such as `unix:///run/user/988/docker.sock`. Empty: the variable
    #: `DOCKER_HOST`, or else the default socket (wingsd's own).
    socket: str = ""
    network: NetworkConfig = NetworkConfig()
    #: The domain of containers' host names.
    domainname: str = ""
    registries: dict[str, Registry] = attrs.field(factory=dict)
    #: The size of `/tmp` in each container, in memory.
    tmpfs_size: MiB = attrs.field(default=100, validator=positive)
    #: Processes and threads in one container; 0 means no limit.
    container_pid_limit: int = 512
    overhead: Overhead = Overhead()
    #: The user namespace of containers: empty is the engine's default, `host` the host's.
    userns_mode: str = ""
    #: Also find running containers with names like `NAME.UUID`, which Calagopus' daemon makes with
    #: this key.
    server_name_in_container_name: bool = False
    log_config: LogConfig = LogConfig()
    installer_limits: InstallerLimits = InstallerLimits()
    #: Addresses to offer for allocations besides this machine's, such as one that a router
    #: translates.
    system_ips: tuple[str, ...] = attrs.field(default=(), validator=ip_addresses)


@attrs.frozen(repr=False)
class Ssl:
    """`api.ssl`: TLS for connections to this node, with PEM files."""

    #: Enable TLS. Both files must exist.
    enabled: bool = False
    #: The certificate and its chain.
    cert: str = ""
    #: The certificate's key, without a passphrase.
    key: str = ""


@attrs.frozen(repr=False)
class LimitsConfig:
    """`api.limits`: limits for clients without a valid token."""

    #: The time from the connection, or the previous answer, to the end of a request; for an
    #: upload, to the end of its headers (wingsd's own).
    request_timeout: Seconds = attrs.field(default=30, validator=positive)
    #: Headers of a request (wingsd's own).
    headers: int = attrs.field(default=100, validator=positive)
    #: The size of all headers of a request (wingsd's own).
    header_bytes: Bytes = attrs.field(default=16384, validator=positive)
    #: Connections that have not sent a request yet. One more closes the oldest of the address that
    #: has the most (wingsd's own).
    connections: int = attrs.field(default=256, validator=positive)


@attrs.frozen(repr=False)
class RemoteDownloadConfig:
    """`api.remote_download`: downloads from a URL into the files of a server."""

    #: Redirects that are followed, each checked like the first URL; 0 follows none.
    max_redirects: int = attrs.field(default=10, validator=not_negative)
    #: Host names, addresses and networks outside of the public Internet that users may download
    #: from. All users with a file manager can then read what these serve (wingsd's own).
    host_allowlist: tuple[str, ...] = ()


@attrs.frozen(repr=False)
class ApiConfig:
    """`api`: where the node listens."""

    #: The address to listen at; `0.0.0.0` is all of IPv4, `::` all of IPv4 and IPv6.
    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    #: The port for the Panel, browsers and other nodes.
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: LimitsConfig = LimitsConfig()
    #: Proxies in front of this node: for the activity log, it believes their headers
    #: `X-Forwarded-For` and `X-Real-IP`. List no other machines.
    trusted_proxies: tuple[str, ...] = attrs.field(default=(), validator=networks)
    #: The node's address for the Panel and other nodes, such as `https://node.example.com:8080`.
    #: If it is set, tokens for transfers must have it as their audience, `aud` (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)
    #: Entries of a directory in one answer to Calagopus' Panel, if it does not say how many; 0
    #: means 100,000.
    directory_entry_limit: int = attrs.field(default=10000, validator=not_negative)
    #: The largest file, in MiB, that can be uploaded in a Panel's page; 0 means no limit. The
    #: Panel sets it.
    upload_limit: int = attrs.field(default=100, validator=not_negative)
    #: How often the address of a download or an upload can be used, with Calagopus; 0 means no
    #: limit.
    max_jwt_uses: int = attrs.field(default=5, validator=not_negative)
    #: Refuse downloads from a URL.
    disable_remote_download: bool = False
    remote_download: RemoteDownloadConfig = RemoteDownloadConfig()
    #: Networks that users may not download from, besides private and reserved ones and this node's
    #: own addresses.
    remote_download_blocked_cidrs: tuple[str, ...] = attrs.field(default=(), validator=networks)
    #: Downloads from a URL at a time for one server; 0 refuses all.
    server_remote_download_limit: int = attrs.field(default=3, validator=not_negative)


DEFAULT_SOCKET = "/run/wingsd/control.sock"


@attrs.frozen(repr=False)
class Control:
    """`control`: the control socket. A user who can open it can do what an operator can."""

    #: Its path; empty disables it.
    socket: str = attrs.field(default=DEFAULT_SOCKET, validator=absolute_or_empty)
    #: The group whose members may open it; empty means the daemon's own.
    group: str = ""


@attrs.frozen(repr=False)
class Metrics:
    """`metrics`: metrics for Prometheus (all of it wingsd's own)."""

    #: The address that serves `GET /metrics`, such as `127.0.0.1:9101`; empty disables it. It has
    #: no token and no TLS: use an address that is not reachable from outside (wingsd's own).
    address: str = attrs.field(default="", validator=host_and_port_or_empty)
    #: Export the figures of each server too, by its UUID and its name (wingsd's own).
    servers: bool = True


@attrs.frozen(repr=False)
class Rootless:
    """`system.user.rootless`: container ids when the engine runs without root."""

    #: The engine runs without root: containers use these ids, and no account is looked up.
    enabled: bool = False
    #: The user id in containers.
    container_uid: int = 0
    #: The group id in containers.
    container_gid: int = 0


@attrs.frozen(repr=False)
class User:
    """`system.user`: the owner of every server's files."""

    #: The user id, used if there is no account `system.username`.
    uid: int = 988
    #: The group id, likewise.
    gid: int = 988
    rootless: Rootless = Rootless()
    passwd: PelicanPasswdConfig = PelicanPasswdConfig()


#: The formats of Calagopus' nodes; of the last three, this one makes none.
ARCHIVE_FORMATS = (
    "tar",
    "tar_gz",
    "tar_xz",
    "tar_bz2",
    "tar_lz4",
    "tar_zstd",
    "tar_lzip",
    "zip",
    "seven_zip",
)


ARCHIVES, POINTS = "archive", "history"
"""The kinds of local backups: archives, and points of histories that have names."""


@attrs.frozen(repr=False)
class WingsBackupsConfig:
    """`system.backups.wings`: local backups."""

    #: What a new backup is: an `archive`, or a point of the server's `history`, which is made in
    #: seconds and takes the space of what has changed. Older backups of the other kind stay, and
    #: can be restored (wingsd's own).
    kind: str = attrs.field(default=ARCHIVES, validator=one_of(ARCHIVES, POINTS))
    #: The format of archives, with Calagopus. Instead of `tar_lzip`, `zip` and `seven_zip` this
    #: node makes `tar_gz`, as always with other Panels.
    archive_format: str = attrs.field(default="tar_gz", validator=one_of(*ARCHIVE_FORMATS))


@attrs.frozen(repr=False)
class S3BackupsConfig:
    """`system.backups.s3`: the upload of backups (Calagopus' keys, for each Panel)."""

    #: The time to upload one part; the Panel sets the size of parts.
    part_upload_timeout: Seconds = attrs.field(default=7200, validator=positive)
    #: How often a part is sent when the store fails or cannot be reached.
    retry_limit: int = attrs.field(default=10, validator=positive)


@attrs.frozen(repr=False)
class BackupsConfig:
    """`system.backups`: making and restoring backups."""

    #: The compression of backups and of transfers' archives, unless the Panel asks for another.
    #: `good_speed` and `good_compression` are Calagopus'.
    compression_level: str = attrs.field(
        default="best_speed",
        validator=one_of(
            "none", "best_speed", "good_speed", "good_compression", "best_compression"
        ),
    )
    #: The rate at which the archive of one backup is written; 0 means no limit.
    write_limit: MiBPerSecond = attrs.field(default=0, validator=not_negative)
    #: Backups that are made at a time; others wait (wingsd's own).
    concurrent: int = attrs.field(default=2, validator=at_most(8))
    #: Delete the local backups of a server that is deleted. Only with Pelican; the others' nodes
    #: keep them.
    remove_backups_on_server_delete: bool = True
    #: How often a backup is read again, to see whether it is whole; 0 means never (wingsd's own).
    check_interval: Days = attrs.field(default=0, validator=not_negative)
    #: The rate of this reading; 0 means no limit (wingsd's own).
    check_limit: MiBPerSecond = attrs.field(default=20, validator=not_negative)
    wings: WingsBackupsConfig = WingsBackupsConfig()
    s3: S3BackupsConfig = S3BackupsConfig()
    #: Host names, addresses and networks of stores outside of the public Internet that backups are
    #: restored from (Pelican's).
    restore_host_allowlist: tuple[str, ...] = ()
    #: How long files that a restored backup has replaced stay in quarantine, if the user chose to
    #: delete all files; 0 deletes them at once (wingsd's own).
    quarantine_days: Days = attrs.field(default=3, validator=not_negative)


DEFAULT_HISTORIES = ("/var/lib/pterodactyl/history", "/var/lib/pelican/history")
"""The directories of histories that the daemon makes; others must exist."""


@attrs.frozen
class HistoryTerms:
    """The terms of one server's history.

    `every` are the seconds between two points, 0 for no history. `keep` has spans in seconds, each
    with the number of points to keep of it; `max_bytes` is None for no limit.
    """

    every: int
    keep: Mapping[int, int]
    max_bytes: int | None


@attrs.frozen(repr=False)
class ServerHistoryConfig:
    """`system.history.servers.*`: settings of one server, by its UUID (all of it wingsd's own)."""

    #: How often a point is made, in place of `system.history.every`; 0 makes none of this server.
    every: Span = attrs.field(default=Span(""), validator=span_or_empty)
    #: What is kept, in place of `system.history.keep`.
    keep: dict[str, int] = attrs.field(factory=dict, validator=counts_by_span)
    #: The limit, in place of `system.history.max_size`; 0 means that one.
    max_size: MiB = attrs.field(default=0, validator=not_negative)


@attrs.frozen(repr=False)
class HistoryConfig:
    """`system.history`: points in time of the servers' files (all of it wingsd's own)."""

    #: How often a point is made of each server; 0 makes none. A point that takes more than half of
    #: this time is followed by a pause as long as it took.
    every: Span = attrs.field(default=Span("0"), validator=span)
    #: How many points are kept of each span of time before now, evenly spread over it: `1h: 12`
    #: keeps one for each five minutes of the last hour. The newest point is always kept.
    keep: dict[str, int] = attrs.field(
        factory=lambda: {"1h": 12, "24h": 24, "30d": 30}, validator=counts_by_span
    )
    #: The directory of the histories, one directory each. It should be on another disk than
    #: `system.data`. Another directory than the default must exist, so that nothing is written in
    #: the place of a file system that is not mounted.
    directory: str = path_field(DEFAULT_HISTORIES[0])
    #: The size of each history. The oldest points are removed first; a history takes at least a
    #: copy of the server's files. 0 means no limit but the free space of the filesystem, less
    #: `system.transfers.disk_reserve`.
    max_size: MiB = attrs.field(default=0, validator=not_negative)
    #: How often a history is read to its end, to see whether it is whole; 0 means never.
    check_interval: Days = attrs.field(default=7, validator=not_negative)
    servers: dict[str, ServerHistoryConfig] = attrs.field(factory=dict, validator=keyed_by_server)

    @property
    def is_on(self) -> bool:
        """True if points are made of any server."""
        spans = (self.every, *(each.every for each in self.servers.values()))
        return any(map(seconds_of, spans))

    def terms(self, server: str) -> HistoryTerms:
        """Return the terms of a server's history."""
        own = self.servers.get(server, ServerHistoryConfig())
        keep = own.keep or self.keep
        max_size = own.max_size or self.max_size
        return HistoryTerms(
            seconds_of(own.every or self.every) or 0,
            {seconds_of(key) or 0: count for key, count in keep.items()},
            max_size * 1024 * 1024 if max_size else None,
        )


@attrs.frozen(repr=False)
class QuotasConfig:
    """`system.quotas`: project quotas of the filesystem of `system.data` (Pelican's)."""

    #: Let the filesystem hold the disk limits of servers at any moment: ext4 or XFS, mounted with
    #: `prjquota`. The daemon then needs `CAP_SYS_ADMIN`.
    enabled: bool = False


@attrs.frozen(repr=False)
class SystemConfig:
    """`system`: the node's directories, its user and its time zone."""

    #: The directory of the state database, `wingsd.db`.
    root_directory: str = path_field("/var/lib/pterodactyl")
    #: The servers' files, one directory each. Servers are received beside it, on the same
    #: filesystem.
    data: str = path_field("/var/lib/pterodactyl/volumes")
    #: Local backups.
    backup_directory: str = path_field("/var/lib/pterodactyl/backups")
    #: Installation logs, `install/UUID.log`, which move with their servers.
    log_directory: str = path_field("/var/log/pterodactyl")
    #: Installation scripts while they run. The engine must see it under the same path.
    tmp_directory: str = path_field("/tmp/pterodactyl")  # noqa: S108 - Wings' default
    #: The account that owns the servers' files. Without it, the ids in `system.user` are used.
    username: str = "pterodactyl"
    user: User = User()
    #: The time zone of containers, in their variable `TZ`.
    timezone: str = "UTC"
    #: Last lines of the console, and of a transfer, that a browser gets.
    websocket_log_count: int = attrs.field(default=150, validator=positive)
    #: The time for a server to stop before it is killed (wingsd's own).
    stop_timeout: Seconds = attrs.field(default=600, validator=positive)
    #: The age at which a server's disk usage is counted again. 0: it is shown as 0, and disk
    #: limits apply to transfers only.
    disk_check_interval: Seconds = attrs.field(default=150, validator=not_negative)
    #: Before each start, give all files in the server's directory to the servers' user. Without
    #: effect with `system.user.rootless`.
    check_permissions_on_boot: bool = True
    #: The time between two reports of the activity log to the Panel.
    activity_send_interval: Seconds = attrs.field(default=60, validator=positive)
    #: Entries in one such report.
    activity_send_count: int = attrs.field(default=100, validator=positive)
    #: Entries that wait while the Panel does not take them; of more, the oldest are dropped
    #: (wingsd's own).
    activity_max_entries: int = attrs.field(default=100_000, validator=positive)
    #: Last console lines in the activity log's entry on a crash, 50 at most; only with Pelican.
    crash_detection_activity_lines: int = attrs.field(default=2, validator=not_negative)
    passwd: PasswdConfig = PasswdConfig()
    machine_id: MachineIdConfig = MachineIdConfig()
    crash_detection: CrashDetectionConfig = CrashDetectionConfig()
    quotas: QuotasConfig = QuotasConfig()
    sftp: SftpConfig = SftpConfig()
    #: The system call that opens directories for users; `auto` takes `openat2` where the kernel
    #: has it (Linux 5.6). Both are equally safe.
    openat_mode: str = attrs.field(default="auto", validator=one_of("auto", "openat", "openat2"))
    transfers: TransfersConfig = TransfersConfig()
    backups: BackupsConfig = BackupsConfig()
    history: HistoryConfig = HistoryConfig()

    @property
    def has_histories(self) -> bool:
        """True if points are made, by the clock or as backups."""
        return self.history.is_on or self.backups.wings.kind == POINTS


@attrs.frozen(repr=False)
class RemoteQuery:
    """`remote_query`: requests to the Panel."""

    #: The time to wait for an answer of the Panel; less than 30 counts as 30.
    timeout: Seconds = attrs.field(default=30, validator=positive)
    #: Servers per request when the node starts.
    boot_servers_per_page: int = attrs.field(default=50, validator=positive)


@attrs.frozen(repr=False)
class Config:
    """The node and its Panel. `token_id`, `token` and `remote` have no defaults."""

    #: The public half of the node's credentials at the Panel. In it, `$NAME` stands for an
    #: environment variable, and a value `file:///path` for the content of a file. The environment
    #: variable `WINGS_TOKEN_ID` replaces this key.
    token_id: str = attrs.field(validator=not_empty)
    #: The secret half, with which the Panel calls this node and signs tokens. Anyone who has it
    #: controls this node's servers. Variables and files as in `token_id`; the environment variable
    #: `WINGS_TOKEN` replaces this key.
    token: str = attrs.field(validator=not_empty, repr=False)
    #: The Panel's address, such as `https://panel.example.com`.
    remote: str = attrs.field(validator=url)
    #: Log more, such as each request.
    debug: bool = False
    #: The name at the start of this node's lines in consoles: `[Pterodactyl Daemon]:`. If `family`
    #: is empty, the Panel's family is recognised by it, too.
    app_name: str = "Pterodactyl"
    #: The family of this node's Panel. Empty: recognised by the place of the file, its directories
    #: and `app_name` (wingsd's own).
    family: str = attrs.field(default="", validator=one_of("", *FAMILIES))
    #: The node's UUID at the Panel. It separates this node's files from those of other nodes in a
    #: shared `system.backup_directory`, and on the volume of `system.transfers.storage_pool`.
    uuid: str = ""
    api: ApiConfig = ApiConfig()
    system: SystemConfig = SystemConfig()
    remote_query: RemoteQuery = RemoteQuery()
    Search: SearchConfig = SearchConfig()
    docker: DockerConfig = DockerConfig()
    throttles: ThrottlesConfig = ThrottlesConfig()
    metrics: Metrics = Metrics()
    control: Control = Control()
    #: Directories of the host below which servers may have mounts. If servers can write to a
    #: directory, list only parts of it that all of them may access: a server that can rename
    #: directories there can replace one by a symlink between the check and the mount.
    allowed_mounts: tuple[str, ...] = ()
    #: Origins of web pages, besides the Panel's, that may call this node and open a WebSocket; `*`
    #: is any.
    allowed_origins: tuple[str, ...] = ()
    #: Refuse the changes that the Panel sends when the node's settings are saved there.
    ignore_panel_config_updates: bool = False
    #: Let pages of the Panel and of `allowed_origins` call this node also if they come from a
    #: public address and it has a private one.
    allow_cors_private_network: bool = False

    @property
    def is_pelican(self) -> bool:
        """True if this node serves a Pelican Panel."""
        traces = (self.system.data, self.system.root_directory, self.app_name)
        return family_of(self.family, traces) == PELICAN

    @property
    def deletes_dropped_backups(self) -> bool:
        """True if local backups of servers that have moved are deleted when the Panel has none.

        With Pelican only where those of deleted servers are, too.
        """
        return not self.is_pelican or self.system.backups.remove_backups_on_server_delete

    def allows_origin(self, page: str) -> bool:
        """Return whether web pages of an origin, a value of the header `Origin`, may call."""
        return any(
            allowed == "*" or origin(allowed) == origin(page)
            for allowed in (self.remote, *self.allowed_origins)
        )


# Reading a file

#: The variables that replace keys of the file, if they are not empty.
VARIABLES: Mapping[str, str] = {"token_id": "WINGS_TOKEN_ID", "token": "WINGS_TOKEN"}
_FILE = "file://"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)


def is_reference(text: str) -> bool:
    """Return whether a credential is written elsewhere."""
    return text.startswith(_FILE) or "$" in text


def resolve(key: str, text: str, environ: Mapping[str, str]) -> str:
    """Return the credential that `text`, the value of `key`, stands for, as Wings does.

    `$NAME` and `${NAME}` in it stand for variables, and then `file:///path` for the content of a
    file.

    Raises `InvalidData` when a variable or a file is missing, or the credential empty.
    """
    if not is_reference(text):
        return text

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in environ:
            raise InvalidData(f"{key}: the variable {name}, which it names, is not set")
        return environ[name]

    found = _VARIABLE.sub(value, text)
    if found.startswith(_FILE):
        path = found.removeprefix(_FILE)
        try:
            found = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise InvalidData(f"{key}: {path}, which it names, cannot be read: {error}") from error
    if not found:
        raise InvalidData(f"{key}: what it names is empty")
    return found


T = TypeVar("T")

_MERGE = "tag:yaml.org,2002:merge"
_TWICE = "duplicate key"


class _Loader(yaml.SafeLoader):
    """A safe loader that reports the place of invalid values and of duplicate keys."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the node of a map. PyYAML takes the last of duplicate keys; YAML forbids them."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            # The merge key may be there several times.
            name = isinstance(key, yaml.ScalarNode) and (key.tag, key.value)
            if name in seen and key.tag != _MERGE:
                raise yaml.MarkedYAMLError(problem=_TWICE, problem_mark=key.start_mark)
            if name:
                seen.add(name)
        return node


def read_yaml(text: str) -> object:
    """Return the data of the one document in `text`.

    Raises `InvalidData` with the place of the fault, and no text of the file, which may be secret.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"see line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        twice = getattr(error, "problem", None) == _TWICE
        raise InvalidData(f"{_TWICE}, {where}" if twice else where) from None
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None


PLACES = ("/etc/wingsd/config.yml", "/etc/pterodactyl/config.yml", "/etc/pelican/config.yml")
"""The places of the configuration; the first that exists is used."""


def parse(
    text: str, source: str, environ: Mapping[str, str] = os.environ
) -> tuple[Config, list[str]]:
    """Return the configuration written in `text` and the paths of unknown keys.

    A family's key that this node does not use is not unknown. `source` names the text in errors;
    `environ` may have the credentials. Raises `ConfigError`.
    """
    try:
        data = read_yaml(text)
    except InvalidData as error:
        raise ConfigError(f"{source} is not YAML: {error}".rstrip(": ")) from None
    try:
        config = structure(_with_variables(data, environ), Config)
        config = attrs.evolve(
            config,
            token_id=resolve("token_id", config.token_id, environ),
            token=resolve("token", config.token, environ),
        )
    except InvalidData as error:
        raise ConfigError(f"{source} cannot be used:\n{error}") from error
    if missing := "\n".join(_missing(config)):
        raise ConfigError(f"{source} cannot be used:\n{missing}")
    keys = unknown_keys(data, Config)
    unknown = [path for key, value in keys.items() for path in _not_unused(key, value)]
    return _of_its_family(config, data, source), unknown


def _with_variables(data: object, environ: Mapping[str, str]) -> object:
    if not isinstance(data, Mapping):
        return data
    given = {key: environ[name] for key, name in VARIABLES.items() if environ.get(name)}
    return {**data, **given}


def _not_unused(path: str, value: object) -> Iterator[str]:
    """Yield `path`, or the paths below it, that are not keys of a family."""
    if path in UNUSED:
        return
    # An empty map is a list in what PHP writes.
    if path in UNUSED_BY_DEFAULT and value in (None, [], UNUSED_BY_DEFAULT[path]):
        return
    below = any(key.startswith(f"{path}.") for key in (*UNUSED, *UNUSED_BY_DEFAULT))
    if below and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_unused(f"{path}.{key}", inner)
    elif not (below and value is None):
        yield path


def _missing(config: Config) -> Iterator[str]:
    """Yield a line for each key that is missing, and needed by something enabled."""
    ssl, pool = config.api.ssl, config.system.transfers.storage_pool
    if ssl.enabled and not (ssl.cert and ssl.key):
        yield "api.ssl: expected cert and key, the paths of two PEM files, since it is enabled"
    if pool.enabled and not pool.pool_name:
        yield "system.transfers.storage_pool: expected pool_name, since it is enabled"
    if pool.enabled and canonical_uuid(config.uuid) is None:
        yield (
            "uuid: expected that of the node, as the Panel prints it, since "
            "system.transfers.storage_pool is enabled"
        )
    system = config.system
    if system.has_histories and _is_in(system.history.directory, system.data):
        yield (
            "system.history.directory: expected a directory outside of system.data, where each "
            "directory is a server's"
        )


def _is_in(path: str, top: str) -> bool:
    below = os.path.normpath(path)
    return os.path.commonpath([below, os.path.normpath(top)]) == os.path.normpath(top)


def _of_its_family(config: Config, data: Any, source: str) -> Config:
    """Return `config` with its family, and the defaults that are that family's own."""
    # Only a place in /etc is a trace: elsewhere files may have any path.
    place = source if source.startswith("/etc/") else ""
    system = config.system
    traces = (place, system.data, system.root_directory, config.app_name)
    family = family_of(config.family, traces)
    return attrs.evolve(_with_defaults(config, DEFAULTS.get(family, {}), data), family=family)


def _with_defaults(section: T, defaults: Mapping[str, Any], written: Any) -> T:
    """Return a section of the configuration with other defaults, for keys that are not written."""
    keys = written if isinstance(written, Mapping) else {}
    changes = {}
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            changes[key] = _with_defaults(getattr(section, key), value, keys.get(key))
        elif keys.get(key) is None:
            changes[key] = value
    return attrs.evolve(section, **changes)  # type: ignore[misc]


def find(places: Sequence[str] = PLACES) -> str:
    """Return the first of `places` that is there.

    Raises `ConfigError` if none exists, and for one that cannot be accessed: the next could be
    another node's.
    """
    for path in places:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be accessed: {error.strerror}; run this as root or as a user "
                f"with access to it, or name another file (twistd wingsd --config)"
            ) from error
        return path
    raise ConfigError(
        f"no configuration found: none of {', '.join(places)} exists. Save the file that the "
        f"Panel shows on the node's Configuration tab as one of them, or name another file "
        f"(twistd wingsd --config, wingsctl check-config FILE)"
    )


def load(path: str) -> tuple[Config, list[str]]:
    """Return what `parse` makes of the file at `path`, with `system.data` free of symlinks.

    Raises `ConfigError`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}: save the node's configuration from the Panel there, "
            "or name another file (twistd wingsd --config, wingsctl check-config FILE)"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text, see byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    config, unknown = parse(text, path)
    # As Wings does, whose containers have the resolved path.
    system = attrs.evolve(config.system, data=os.path.realpath(config.system.data))
    return attrs.evolve(config, system=system), unknown


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths of the keys whose values differ in two configurations, in order.

    Never the values, which may be secrets. A map or a list differs as a whole.
    """
    if one == other:
        return []
    if not attrs.has(type(one)):
        return [path]
    found = []
    for field in attrs.fields(type(one)):
        here = f"{path}.{field.name}" if path else field.name
        found += differences(getattr(one, field.name), getattr(other, field.name), here)
    return found


# The configuration in force

#: The keys that take effect while the daemon runs; others need a restart.
APPLIED = frozenset(
    {
        "token_id",
        "token",
        "remote",
        "debug",
        "api.ssl.cert",
        "api.ssl.key",
        "api.upload_limit",
        "allowed_mounts",
        "allowed_origins",
        "allow_cors_private_network",
        "ignore_panel_config_updates",
        "system.sftp.read_only",
        "system.sftp.key_only",
        "system.sftp.disable_password_auth",
        "system.backups.wings.kind",
        "system.history.every",
        "system.history.keep",
        "system.history.max_size",
        "system.history.check_interval",
        "system.history.servers",
    }
)


class LiveConfig:
    """The configuration in force. Objects that outlive a request follow its changes.

    `started` is the configuration at the start, `path` its file, empty without one.
    """

    def __init__(self, started: Config, path: str = "") -> None:
        self.path = path
        self.current = started
        self._followers: list[Callable[[Config], object]] = []

    def follow(self, use: Callable[[Config], object]) -> None:
        """Call `use` with each later configuration."""
        self._followers.append(use)

    def replace(self, config: Config) -> list[str]:
        """Put the keys of `APPLIED` in force; return the paths of the others that differ."""
        differing = differences(self.current, config)
        applied = [path for path in differing if path in APPLIED]
        current = self.current
        for path in applied:
            current = _with_value(current, path.split("."), value_at(config, path))
        if applied:
            # All at once: never a certificate without its key, nor a token with another's id.
            self.current = current
            for use in self._followers:
                use(self.current)
        return [path for path in differing if path not in APPLIED]


def value_at(section: Any, path: str) -> Any:
    """Return the value of a key by its dotted path. Raises `AttributeError` for an unknown key."""
    for name in path.split("."):
        section = getattr(section, name)
    return section


def _with_value(section: Any, names: list[str], value: Any) -> Any:
    name, *rest = names
    inner = _with_value(getattr(section, name), rest, value) if rest else value
    return attrs.evolve(section, **{name: inner})


def unusable_directories(config: Config) -> dict[str, str]:
    """Return why this process can create nothing in a directory, by its key and path."""
    found = {}
    for key in ("root_directory", "data", "backup_directory"):
        path = getattr(config.system, key)
        if why := _obstacle(path):
            found[f"system.{key} ({path})"] = why
    return found


def _obstacle(directory: str) -> str:
    """Return why nothing can be created in a directory, which need not exist yet."""
    while not os.path.exists(directory) and directory != "/":
        directory = os.path.dirname(directory.rstrip("/"))
    if not os.path.isdir(directory):
        return f"{directory} is not a directory"
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    return "its file system is read-only" if read_only else "permission denied"
