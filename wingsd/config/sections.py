"""The sections of the configuration: `docker`, `system`, `api`, `control` and `metrics`."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config.servers import (
    CrashDetectionConfig,
    InstallerLimits,
    MachineIdConfig,
    PasswdConfig,
    PelicanPasswdConfig,
)
from wingsd.config.validators import (
    Bytes,
    BytesPerSecond,
    Days,
    MiB,
    MiBPerSecond,
    Seconds,
    absolute_or_empty,
    header_text,
    host_and_port_or_empty,
    keyed_by_memory,
    nice_value,
    not_negative,
    one_of,
    path_field,
    port,
    positive,
    url_or_empty,
)

__all__ = [
    "DEFAULT_SOCKET",
    "ApiConfig",
    "BackupsConfig",
    "Control",
    "DockerConfig",
    "FormConfig",
    "IPv4",
    "IPv6",
    "Interfaces",
    "LimitsConfig",
    "LogConfig",
    "Metrics",
    "NetworkConfig",
    "Overhead",
    "QuotasConfig",
    "Registry",
    "Rootless",
    "Ssl",
    "StoragePool",
    "StreamsConfig",
    "SystemConfig",
    "TransfersConfig",
    "User",
]


@attrs.frozen
class IPv4:
    """`docker.network.interfaces.v4`: the IPv4 addresses of the created network."""

    #: The addresses of the network.
    subnet: str = "172.18.0.0/16"
    #: The host's address in it.
    gateway: str = "172.18.0.1"


@attrs.frozen
class IPv6:
    """`docker.network.interfaces.v6`: the IPv6 addresses of the created network."""

    #: The addresses of the network; empty means a network without IPv6.
    subnet: str = "fdba:17c8:6c94::/64"
    #: The host's address in it.
    gateway: str = "fdba:17c8:6c94::1011"


@attrs.frozen
class Interfaces:
    """`docker.network.interfaces`: the addresses of the created network."""

    v4: IPv4 = IPv4()
    v6: IPv6 = IPv6()


@attrs.frozen
class NetworkConfig:
    """`docker.network`: the network that every server's container joins."""

    #: The address that replaces 127.0.0.1 of a server: the host's address in the network.
    interface: str = "172.18.0.1"
    #: The name servers of the containers.
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    #: The network that is created if it is missing and `network_mode` names it.
    name: str = "pterodactyl_nw"
    #: Bind no ports to 127.0.0.1.
    ispn: bool = False
    #: The driver of the created network.
    driver: str = "bridge"
    #: The network that containers join: `name`, another existing one, or a mode of the engine,
    #: such as `host`.
    network_mode: str = "pterodactyl_nw"
    #: Create the network without access to the outside.
    is_internal: bool = False
    #: Allow connections between containers of the created network.
    enable_icc: bool = True
    #: The MTU of the created network.
    network_mtu: Bytes = 1500
    #: The host interface of the created network (wingsd's own).
    bridge_name: str = "pterodactyl0"
    interfaces: Interfaces = Interfaces()


@attrs.frozen
class Registry:
    """`docker.registries.*`: the credentials for one registry, by its host."""

    #: The user name.
    username: str = ""
    #: The password or token.
    password: str = attrs.field(default="", repr=False)


@attrs.frozen
class LogConfig:
    """`docker.log_config`: how the engine keeps a container's output."""

    #: The engine's logging driver.
    type: str = "local"
    #: The driver's options: scalars of any type, passed to the engine as text.
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
    """`docker.overhead`: memory that a container gets beyond its server's limit, as a factor."""

    #: Use these factors instead of the defaults.
    override: bool = False
    #: The factor for limits above those in `multipliers`.
    default_multiplier: float = 1.05
    #: Memory limits in MB, each with the factor for limits up to it.
    multipliers: dict[str, float] = attrs.field(
        factory=lambda: {"2048": 1.15, "4096": 1.10}, validator=keyed_by_memory
    )


@attrs.frozen
class DockerConfig:
    """`docker`: the engine, and settings of all containers on this node."""

    #: False is for a node that only keeps files, without containers (wingsd's own). It is never
    #: chosen automatically: an engine that does not answer fails a transfer.
    enabled: bool = True
    #: The engine's socket, such as `unix:///run/user/988/docker.sock`; empty means the variable
    #: `DOCKER_HOST`, or else the default socket (wingsd's own).
    socket: str = ""
    network: NetworkConfig = NetworkConfig()
    #: The domain of the containers' host names.
    domainname: str = ""
    registries: dict[str, Registry] = attrs.field(factory=dict)
    #: The size of `/tmp` in every container, in memory.
    tmpfs_size: MiB = attrs.field(default=100, validator=positive)
    #: The maximum number of processes and threads in one container; 0 means no limit.
    container_pid_limit: int = 512
    overhead: Overhead = Overhead()
    #: The user namespace of containers: empty is the engine's default, `host` the host's.
    userns_mode: str = ""
    log_config: LogConfig = LogConfig()
    installer_limits: InstallerLimits = InstallerLimits()


@attrs.frozen
class Rootless:
    """`system.user.rootless`: container ids when the engine runs without root."""

    #: The engine runs without root: containers use the ids below, and no account is looked up.
    enabled: bool = False
    #: The user id inside the containers.
    container_uid: int = 0
    #: The group id inside the containers.
    container_gid: int = 0


@attrs.frozen
class User:
    """`system.user`: the owner of every server's files."""

    #: The user id, unless the account `system.username` exists.
    uid: int = 988
    #: The group id, unless the account `system.username` exists.
    gid: int = 988
    rootless: Rootless = Rootless()
    passwd: PelicanPasswdConfig = PelicanPasswdConfig()


@attrs.frozen
class FormConfig:
    """`system.transfers.form`: limits for the parts of an upload."""

    #: The maximum number of parts of one upload: archive, checksum, log, and backups with their
    #: checksums (wingsd's own).
    parts: int = attrs.field(default=256, validator=positive)
    #: The maximum number of headers of one part (wingsd's own).
    headers: int = attrs.field(default=8, validator=positive)
    #: The maximum size of one header of a part (wingsd's own).
    header_bytes: Bytes = attrs.field(default=4096, validator=positive)


@attrs.frozen
class StreamsConfig:
    """`system.transfers.streams`: transfers of one server in several simultaneous requests."""

    #: The maximum number of streams beside the first, received for one server, or sent if the
    #: Panel asks for them: 7 at most when sending (wingsd's own). Each received one takes a slot
    #: of `concurrent` and the memory of one upload; with fewer slots they are read in turn.
    most: int = attrs.field(default=16, validator=not_negative)
    #: The time for all streams to arrive after the first one, before all of them fail (wingsd's
    #: own).
    within: Seconds = attrs.field(default=60, validator=positive)


@attrs.frozen
class StoragePool:
    """`system.transfers.storage_pool`: a volume that several nodes share (Pelican's)."""

    #: `system.data` is on a volume that other nodes share: between them a server moves without
    #: being copied, and its files stay when the Panel has it deleted at the source. It also needs
    #: `uuid`, to distinguish the nodes' directories on the volume.
    enabled: bool = False
    #: The name of the pool, the same on all of its nodes; case does not matter.
    pool_name: str = attrs.field(default="", validator=header_text)

    @property
    def name(self) -> str:
        """The pool's name, empty without a pool."""
        return self.pool_name if self.enabled else ""


@attrs.frozen
class TransfersConfig:
    """`system.transfers`: moving servers."""

    #: The rate at which all servers together are received; active transfers share it equally. 0 or
    #: less means no limit, as with Wings.
    download_limit: MiBPerSecond = 0
    #: The rate at which all servers together are sent; 0 means no limit (wingsd's own).
    upload_limit: MiBPerSecond = attrs.field(default=0, validator=not_negative)
    #: The nice value of the threads that pack and unpack archives, so that the daemon's other work
    #: comes first (wingsd's own). Their I/O priority follows it, ioprio_set(2). The kernel
    #: compares nice values within one control group only, sched(7), and containers have their own:
    #: to yield to them, give the daemon's unit a low `CPUWeight=` and `IOWeight=`,
    #: systemd.resource-control(5).
    nice: int = attrs.field(default=10, validator=nice_value)
    #: Flush a received server to stable storage before this is reported to the Panel, which then
    #: deletes the other copy (wingsd's own). Disable it only where the loss of a server is
    #: acceptable.
    durable: bool = True
    #: The maximum number of servers received at the same time (wingsd's own).
    concurrent: int = attrs.field(default=8, validator=positive)
    #: The maximum number of further uploads that wait for a slot, their senders slowed down;
    #: others get 503 with `Retry-After` (wingsd's own).
    waiting: int = attrs.field(default=64, validator=not_negative)
    #: The time after which a silent sender's upload fails, or the upload to a destination that
    #: acknowledges nothing (wingsd's own).
    stall_timeout: Seconds = attrs.field(default=120, validator=positive)
    #: The minimum average rate of a sender over `stall_timeout`, while it has a slot; 0 means none
    #: (wingsd's own).
    least_rate: BytesPerSecond = attrs.field(default=1024, validator=not_negative)
    #: The time for a destination that has everything to finish after its answer was lost, for
    #: example by a proxy's time limit; the Panel is asked meanwhile whether the server has moved.
    #: 0 means none (wingsd's own).
    answer_grace: Seconds = attrs.field(default=600, validator=not_negative)
    #: The time to wait for the answer of a destination that has everything, before the Panel is
    #: asked which node has the server; 0 means no limit (wingsd's own).
    answer_timeout: Seconds = attrs.field(default=4 * 3600, validator=not_negative)
    form: FormConfig = FormConfig()
    streams: StreamsConfig = StreamsConfig()
    storage_pool: StoragePool = StoragePool()
    #: The time for a server to stop before a transfer, after which it is killed (wingsd's own).
    stop_grace: Seconds = attrs.field(default=60, validator=positive)
    #: The time for which complete copies of servers that the Panel assigns to another node stay in
    #: quarantine (wingsd's own).
    quarantine_days: Days = attrs.field(default=30, validator=positive)
    #: A PEM file of certificate authorities, trusted in addition to the system's for destinations
    #: (wingsd's own).
    ca_file: str = ""
    #: The space that received servers leave free on the filesystem of `system.data`, but never
    #: more than a twentieth of it; 0 means none (wingsd's own).
    disk_reserve: MiB = attrs.field(default=1024, validator=not_negative)
    #: The inodes that received servers leave free there, but never more than a twentieth; 0 means
    #: none (wingsd's own). Every file, directory and symlink needs one.
    inode_reserve: int = attrs.field(default=20_000, validator=not_negative)
    #: The maximum number of files, directories and links in one archive (wingsd's own).
    max_members: int = attrs.field(default=10_000_000, validator=positive)
    #: The memory for metadata of directories that an archive lists after their contents; other
    #: metadata of directories is kept on the disk (wingsd's own).
    directory_memory: MiB = attrs.field(default=16, validator=positive)


@attrs.frozen
class BackupsConfig:
    """`system.backups`: compression of archives."""

    #: The compression of archives, unless the Panel asks for another level. `good_speed` and
    #: `good_compression` are Calagopus'.
    compression_level: str = attrs.field(
        default="best_speed",
        validator=one_of(
            "none", "best_speed", "good_speed", "good_compression", "best_compression"
        ),
    )


@attrs.frozen
class QuotasConfig:
    """`system.quotas`: project quotas of the filesystem of `system.data` (Pelican's)."""

    #: Have the filesystem hold the disk limits of servers, so that none can exceed its limit for a
    #: moment: ext4 or XFS, mounted with `prjquota`. The daemon then needs `CAP_SYS_ADMIN`; without
    #: it, or without quotas, it logs why and holds the limits by counting alone.
    enabled: bool = False


@attrs.frozen
class SystemConfig:
    """`system`: the node's directories, its user and its time zone."""

    #: The directory of the state database, `wingsd.db`.
    root_directory: str = path_field("/var/lib/pterodactyl")
    #: The servers' files, one directory each. A server that is being received is stored beside
    #: this directory, so the same filesystem needs space for it.
    data: str = path_field("/var/lib/pterodactyl/volumes")
    #: The directory of local backups. With Pelican this and the next key have Pelican's defaults.
    backup_directory: str = path_field("/var/lib/pterodactyl/backups")
    #: The directory of installation logs, which move with their servers: `install/UUID.log`.
    log_directory: str = path_field("/var/log/pterodactyl")
    #: The directory of installation scripts while they run. The engine must see it under the same
    #: path. With Pelican the default is `/tmp/pelican`.
    tmp_directory: str = path_field("/tmp/pterodactyl")  # noqa: S108 - Wings' default
    #: The owner of the servers' files. If the account does not exist, the ids in `system.user` are
    #: used.
    username: str = "pterodactyl"
    user: User = User()
    #: The time zone of the containers: their variable `TZ`.
    timezone: str = "UTC"
    #: The number of last lines of the console, and of a transfer, that a browser gets.
    websocket_log_count: int = attrs.field(default=150, validator=positive)
    #: The time for a server to stop, after which it is killed (wingsd's own).
    stop_timeout: Seconds = attrs.field(default=600, validator=positive)
    #: The age at which the disk usage of a server is counted again. 0: it is never counted, shown
    #: as 0, and disk limits have no effect but on transfers.
    disk_check_interval: Seconds = attrs.field(default=150, validator=not_negative)
    #: Before each start of a server, give those of its files to the owner that have another one,
    #: such as those of an installation. Not with `system.user.rootless`.
    check_permissions_on_boot: bool = True
    passwd: PasswdConfig = PasswdConfig()
    machine_id: MachineIdConfig = MachineIdConfig()
    crash_detection: CrashDetectionConfig = CrashDetectionConfig()
    quotas: QuotasConfig = QuotasConfig()
    transfers: TransfersConfig = TransfersConfig()
    backups: BackupsConfig = BackupsConfig()


@attrs.frozen
class Ssl:
    """`api.ssl`: TLS for connections to this node, with PEM files."""

    #: Enable TLS. Both files must exist; they are read again on SIGHUP.
    enabled: bool = False
    #: The certificate and its chain up to the authority.
    cert: str = ""
    #: The certificate's key, without a passphrase.
    key: str = ""


@attrs.frozen
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


@attrs.frozen
class ApiConfig:
    """`api`: where the node listens."""

    #: The address to listen at; `0.0.0.0` means all of IPv4, `::` all of IPv4 and IPv6.
    host: str = "0.0.0.0"  # noqa: S104 - a node's purpose is to be reached; Wings' default
    #: The port to listen at, for the Panel, browsers and other nodes.
    port: int = attrs.field(default=8080, validator=port)
    ssl: Ssl = Ssl()
    limits: LimitsConfig = LimitsConfig()
    #: The node's address for the Panel and other nodes, such as `https://node.example.com:8080`.
    #: Tokens for transfers must name it. Empty accepts any address, since only this node has the
    #: key they are signed with (wingsd's own).
    public_url: str = attrs.field(default="", validator=url_or_empty)


DEFAULT_SOCKET = "/run/wingsd/control.sock"


@attrs.frozen
class Control:
    """`control`: the control socket. Whoever can open it can do what an operator can."""

    #: The socket's path; empty disables it.
    socket: str = attrs.field(default=DEFAULT_SOCKET, validator=absolute_or_empty)
    #: The group whose members may open it; empty means the daemon's own.
    group: str = ""


@attrs.frozen
class Metrics:
    """`metrics`: metrics for Prometheus (all of it wingsd's own)."""

    #: The address that serves `GET /metrics`, such as `127.0.0.1:9101`; empty disables it. It has
    #: no token and no TLS, so use an address that is not reachable from outside (wingsd's own).
    address: str = attrs.field(default="", validator=host_and_port_or_empty)
