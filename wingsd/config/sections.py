"""The sections of the configuration: their keys, types and defaults.

`api`, `control` and `metrics`, where the node listens; `docker`, the engine, its network and its
containers; the life of servers, from their start to a crash; and `system`, with `system.sftp` and
`system.transfers`.
"""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config.validators import (
    Bytes,
    BytesPerSecond,
    Days,
    MiB,
    MiBPerSecond,
    Milliseconds,
    Seconds,
    absolute_or_empty,
    at_most,
    console_line,
    header_text,
    host_and_port_or_empty,
    ip_addresses,
    keyed_by_memory,
    networks,
    nice_value,
    not_empty,
    not_negative,
    one_of,
    part_of_one,
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
    "CrashDetectionConfig",
    "DockerConfig",
    "FormConfig",
    "IPv4",
    "IPv6",
    "InstallerLimits",
    "Interfaces",
    "LimitsConfig",
    "LiveMovesConfig",
    "LogConfig",
    "MachineIdConfig",
    "Metrics",
    "MovesConfig",
    "NetworkConfig",
    "Overhead",
    "PasswdConfig",
    "PelicanPasswdConfig",
    "QuotasConfig",
    "Registry",
    "Rootless",
    "S3BackupsConfig",
    "SearchConfig",
    "SftpConfig",
    "SftpLimits",
    "Ssl",
    "StoragePool",
    "StreamsConfig",
    "SystemConfig",
    "ThrottlesConfig",
    "TransfersConfig",
    "User",
    "WingsBackupsConfig",
]


@attrs.frozen(repr=False)
class FormConfig:
    """`system.transfers.form`: limits for the parts of an upload."""

    #: The maximum number of parts of one upload: archive, checksum, log, and backups with their
    #: checksums (wingsd's own).
    parts: int = attrs.field(default=256, validator=positive)
    #: The maximum number of headers of one part (wingsd's own).
    headers: int = attrs.field(default=8, validator=positive)
    #: The maximum size of one header of a part (wingsd's own).
    header_bytes: Bytes = attrs.field(default=4096, validator=positive)


@attrs.frozen(repr=False)
class StreamsConfig:
    """`system.transfers.streams`: transfers of one server in several simultaneous requests."""

    #: The maximum number of streams beside the first, received for one server, or sent if the
    #: Panel asks for them: 7 at most when sending (wingsd's own). Each received one takes a slot
    #: of `concurrent` and the memory of one upload; one server has at most half of the slots, and
    #: with fewer its streams are read in turn.
    most: int = attrs.field(default=16, validator=not_negative)
    #: The time for all streams to arrive after the first one, before all of them fail (wingsd's
    #: own).
    within: Seconds = attrs.field(default=60, validator=positive)


@attrs.frozen(repr=False)
class MovesConfig:
    """`system.transfers.moves`: moves that resume, between two nodes of wingsd."""

    #: Send and receive servers in batches that arrive once, whatever breaks. A node that does not
    #: know how gets one stream (wingsd's own).
    enabled: bool = True
    #: The time without any progress after which a move has failed. The destination waits five
    #: minutes longer for its source (wingsd's own).
    patience: Seconds = attrs.field(default=3600, validator=positive)
    #: The maximum size of a batch, which is the body of one request; the lower one of the two
    #: nodes counts (wingsd's own). A break costs the batches under way, and the source has up to
    #: six of this size in memory.
    batch: MiB = attrs.field(default=8, validator=at_most(64))
    #: The batches of a move under way at the same time; the lower number of the two nodes counts
    #: (wingsd's own). A source that sends more gets 503.
    streams: int = attrs.field(default=2, validator=at_most(8))
    #: Read a received server back from the disk, past the page cache, and compare it with what
    #: was sent: as it arrives, and the rest before it is put into place (wingsd's own).
    reread: bool = True
    #: The time for which what has arrived of a failed move is kept, so that the next transfer of
    #: the server goes on with it; 0 keeps nothing (wingsd's own).
    keep_days: Days = attrs.field(default=7, validator=not_negative)
    #: The size of all such copies together, beside the newest one; the oldest is removed first. 0
    #: means a tenth of the filesystem of `system.data` (wingsd's own).
    keep_bytes: Bytes = attrs.field(default=0, validator=not_negative)


@attrs.frozen(repr=False)
class LiveMovesConfig:
    """`system.transfers.live`: moves of running servers, between two nodes of wingsd."""

    #: Send a running server's files in rounds while it runs, and stop it only for the last one. It
    #: also needs `system.transfers.moves.enabled`. Otherwise a server is stopped first (wingsd's
    #: own).
    enabled: bool = True
    #: The server is stopped when the rest can be sent within this time, or when more rounds do not
    #: make it less (wingsd's own). What the server needs to stop and to start comes on top.
    target_downtime: Seconds = attrs.field(default=2, validator=positive)
    #: The server is not stopped while the rest would take longer than this: rounds go on, one a
    #: minute, until it is less, the server is stopped, or the transfer cancelled; 0 means no limit
    #: (wingsd's own). Meanwhile it keeps one of the node's eight slots for sending.
    max_downtime: Seconds = attrs.field(default=0, validator=not_negative)
    #: The number of rounds after which the server is stopped; 0 means no limit (wingsd's own).
    max_rounds: int = attrs.field(default=30, validator=not_negative)
    #: The time after the end of the first round after which the server is stopped; 0 means no
    #: limit (wingsd's own).
    max_seconds: Seconds = attrs.field(default=86_400, validator=not_negative)
    #: The time for which a stopped server's last round may come to a halt: then the server is
    #: started here again, and rounds go on. After three times the transfer has failed (wingsd's
    #: own).
    final_patience: Seconds = attrs.field(default=120, validator=positive)
    #: Start a server at this node that was running when it was moved here, when the Panel has
    #: accepted the success (wingsd's own). Not after a direct transfer.
    start: bool = True
    #: The part of `upload_limit` that rounds of running servers use together at most while others
    #: are sent, from 0 to 1; those get the rest at least (wingsd's own).
    share: float = attrs.field(default=0.8, validator=part_of_one)
    #: How often a copy of a server that `wingsctl send --follow` keeps at another node is brought
    #: up to date; less often where that takes more than half of this time (wingsd's own).
    follow_every: Seconds = attrs.field(default=60, validator=positive)
    #: A command for the console of a running server just before it is stopped for the last round,
    #: such as `say Moving to another node, back in {seconds} s`: for `{seconds}` comes the
    #: predicted time. It is for all servers alike; empty means none (wingsd's own).
    announce: str = attrs.field(default="", validator=console_line)
    #: `auto`: the last round does not read files again whose stat results prove that they are
    #: as they were sent, on file systems on which a measurement shows that this holds. `never`:
    #: it reads all files, and the server is down for longer (wingsd's own).
    trust: str = attrs.field(default="auto", validator=one_of("auto", "never"))
    #: The time for which the files of a server that was moved while it ran stay in quarantine at
    #: the node that sent it; 0 deletes them at once. As long stay local backups that Pelican's
    #: page dropped when it moved their server, but a day at least (wingsd's own).
    keep_source_days: Days = attrs.field(default=1, validator=not_negative)


@attrs.frozen(repr=False)
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


@attrs.frozen(repr=False)
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
    moves: MovesConfig = MovesConfig()
    live: LiveMovesConfig = LiveMovesConfig()
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


@attrs.frozen(repr=False)
class SftpLimits:
    """`system.sftp.limits`: what one client, and one user, may take."""

    #: Refused passwords of one user name from one address, in one connection and within
    #: `authentication_cooldown`; with Calagopus the default is 3. From one address, ten times as
    #: many of all user names.
    authentication_password_attempts: int = attrs.field(default=6, validator=positive)
    #: Public keys that a client may offer in one connection. From one address, ten times as many
    #: may be refused within `authentication_cooldown`.
    authentication_pubkey_attempts: int = attrs.field(default=20, validator=positive)
    #: The time for which refused passwords and keys count, and so the time after which an address
    #: that was refused may try again.
    authentication_cooldown: Seconds = attrs.field(default=60, validator=positive)
    #: Connections of one user, or 0 for no limit of its own. One above it waits ten seconds until
    #: another has ended.
    max_connections_per_user: int = attrs.field(default=32, validator=not_negative)
    #: The same of one server (wingsd's own).
    max_connections_per_server: int = attrs.field(default=64, validator=not_negative)
    #: Channels of one connection.
    max_channels_per_connection: int = attrs.field(default=10, validator=positive)
    #: Files and directories that one channel may have open; with Calagopus the default is 32.
    max_handles_per_channel: int = attrs.field(default=128, validator=positive)
    #: Files and directories that all channels may have open.
    max_handles_total: int = attrs.field(default=1024, validator=positive)
    #: Connections in all (wingsd's own).
    max_connections: int = attrs.field(default=256, validator=positive)
    #: Connections that have not logged in yet, in all, and half as many of one address (wingsd's
    #: own).
    max_half_open: int = attrs.field(default=128, validator=positive)


@attrs.frozen(repr=False)
class SftpActivityConfig:
    """`system.sftp.activity`: further events of the activity log (Calagopus')."""

    #: Report each login: `server:sftp.login`.
    log_logins: bool = False
    #: Report each file that is opened for reading: `server:sftp.read`.
    log_file_reads: bool = False


@attrs.frozen(repr=False)
class SftpConfig:
    """`system.sftp`: access to the files of servers by SFTP."""

    #: Run the SFTP server.
    enabled: bool = True
    #: The address that it listens on.
    bind_address: str = attrs.field(default="0.0.0.0", validator=not_empty)  # noqa: S104 - Wings'
    #: The port that it listens on.
    bind_port: int = attrs.field(default=2022, validator=port)
    #: Refuse all changes: files can be listed and read.
    read_only: bool = False
    #: Accept public keys only, and no passwords (Pelican's key).
    key_only: bool = False
    #: The same; Calagopus' nodes have this name for it.
    disable_password_auth: bool = False
    #: The maximum number of entries in the listing of one directory; further ones are left out.
    directory_entry_limit: int = attrs.field(default=20_000, validator=positive)
    #: The maximum number of entries in one answer to a client.
    directory_entry_send_amount: int = attrs.field(default=500, validator=positive)
    #: The time after which the Panel is asked again whether the user of an open session may go on,
    #: with the same password or key, or 0 for never (wingsd's own).
    check_interval: Seconds = attrs.field(default=300, validator=not_negative)
    #: The time from the last connection to the end of the process that serves SFTP, which the next
    #: connection starts again (wingsd's own).
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

    #: Start such a server again. The Panel can say otherwise for one server, by
    #: `crash_detection_enabled` in its settings.
    enabled: bool = True
    #: Do so also when the program ended with the exit code 0, as after a stop within the game.
    detect_clean_exit_as_crash: bool = True
    #: The time after such a restart within which another end is not followed by one; 0 means that
    #: every end is.
    timeout: Seconds = attrs.field(default=60, validator=not_negative)


@attrs.frozen(repr=False)
class ThrottlesConfig:
    """`throttles`: the limit of the lines that one server may write into its console.

    Above it, lines are left out, and a line of the node says so. More than 1 MiB a second is never
    passed on.
    """

    #: Limit the lines.
    enabled: bool = True
    #: The maximum number of lines in `line_reset_interval`. As many, but 2,000 at least, pass in a
    #: second.
    lines: int = attrs.field(default=2000, validator=not_negative)
    #: The time after which the count begins again.
    line_reset_interval: Milliseconds = attrs.field(default=100, validator=not_negative)


@attrs.frozen(repr=False)
class SearchConfig:
    """`Search`: searches for names of files, from the file manager of Pelican's Panel."""

    #: Names of directories that are not searched, nor those below them; case does not count.
    blacklisted_dirs: tuple[str, ...] = (
        "node_modules",
        ".git",
        ".wine",
        "appcache",
        "depotcache",
        "vendor",
    )
    #: How deep below the directory of a search it goes.
    max_recursion_depth: int = attrs.field(default=8, validator=not_negative)


@attrs.frozen(repr=False)
class PasswdConfig:
    """`system.passwd`: an account for the user of servers' containers (not with Pelican)."""

    #: Mount a file with that user as `/etc/passwd`, and one with its group as `/etc/group`.
    enabled: bool = False
    #: The directory of both files.
    directory: str = path_field("/run/wings/etc")


@attrs.frozen(repr=False)
class PelicanPasswdConfig:
    """`system.user.passwd`: the same for Pelican."""

    #: Mount a file with that user as `/etc/passwd`, and one with its group as `/etc/group`.
    enable: bool = True
    #: The directory of both files.
    directory: str = path_field("/etc/pelican")


@attrs.frozen(repr=False)
class MachineIdConfig:
    """`system.machine_id`: an id for each container, as some games want one of their machine."""

    #: Mount a file with the server's UUID, without its dashes, as `/etc/machine-id`.
    enable: bool = True
    #: The same; Calagopus' nodes have this name for it. Both must be true.
    enabled: bool = True
    #: The directory of these files; with Pelican the default is `/etc/pelican/machine-id`.
    directory: str = path_field("/run/wings/machine-id")


@attrs.frozen(repr=False)
class InstallerLimits:
    """`docker.installer_limits`: the container that runs an egg's installation script."""

    #: Its memory, unless the server has more. 0 here or for the server means no limit.
    memory: MiB = attrs.field(default=1024, validator=not_negative)
    #: Its CPU in percent of one core, unless the server has more. 0 here or for the server means
    #: no limit.
    cpu: int = attrs.field(default=100, validator=not_negative)
    #: The time for a script to end, after which it is stopped and the installation has failed; a
    #: restart of the node does not prolong it. 0 means no limit.
    timeout: Seconds = attrs.field(default=1800, validator=not_negative)


@attrs.frozen(repr=False)
class IPv4:
    """`docker.network.interfaces.v4`: the IPv4 addresses of the created network."""

    #: The addresses of the network.
    subnet: str = "172.18.0.0/16"
    #: The host's address in it.
    gateway: str = "172.18.0.1"


@attrs.frozen(repr=False)
class IPv6:
    """`docker.network.interfaces.v6`: the IPv6 addresses of the created network."""

    #: The addresses of the network; empty means a network without IPv6.
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

    #: The address that replaces 127.0.0.1 of a server: the host's address in the network.
    interface: str = "172.18.0.1"
    #: The name servers of the containers.
    dns: tuple[str, ...] = ("1.1.1.1", "1.0.0.1")
    #: The network that is created if it is missing and `network_mode` names it. With Pelican the
    #: default is `pelican_nw`; a node that has `pterodactyl_nw` from before goes on using it.
    name: str = "pterodactyl_nw"
    #: Bind no ports to 127.0.0.1.
    ispn: bool = False
    #: The driver of the created network.
    driver: str = "bridge"
    #: The network that containers join: `name`, another existing one, or a mode of the engine,
    #: such as `host`. With Pelican the default is `pelican_nw`.
    network_mode: str = "pterodactyl_nw"
    #: Create the network without access to the outside.
    is_internal: bool = False
    #: Allow connections between containers of the created network.
    enable_icc: bool = True
    #: The MTU of the created network.
    network_mtu: Bytes = 1500
    #: The host interface of the created network (wingsd's own). With Pelican the default is
    #: `pelican0`.
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


@attrs.frozen(repr=False)
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


@attrs.frozen(repr=False)
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
    #: Also find running servers whose containers have names like `NAME.UUID`, which Calagopus'
    #: daemon gives them with this key. This node's own have the UUID as their name.
    server_name_in_container_name: bool = False
    log_config: LogConfig = LogConfig()
    installer_limits: InstallerLimits = InstallerLimits()
    #: Addresses that a Panel offers for allocations beside those of this machine, such as one that
    #: a router translates.
    system_ips: tuple[str, ...] = attrs.field(default=(), validator=ip_addresses)


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


@attrs.frozen(repr=False)
class Rootless:
    """`system.user.rootless`: container ids when the engine runs without root."""

    #: The engine runs without root: containers use the ids below, and no account is looked up.
    enabled: bool = False
    #: The user id inside the containers.
    container_uid: int = 0
    #: The group id inside the containers.
    container_gid: int = 0


@attrs.frozen(repr=False)
class User:
    """`system.user`: the owner of every server's files."""

    #: The user id, unless the account `system.username` exists.
    uid: int = 988
    #: The group id, unless the account `system.username` exists.
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


@attrs.frozen(repr=False)
class WingsBackupsConfig:
    """`system.backups.wings`: local backups with Calagopus."""

    #: The format of archives. In place of `tar_lzip`, `zip` and `seven_zip`, this node makes
    #: `tar_gz`, which it makes with other Panels as well.
    archive_format: str = attrs.field(default="tar_gz", validator=one_of(*ARCHIVE_FORMATS))


@attrs.frozen(repr=False)
class S3BackupsConfig:
    """`system.backups.s3`: the upload of backups (Calagopus' keys, for each Panel)."""

    #: The time for one part of a backup, of the size that the Panel says.
    part_upload_timeout: Seconds = attrs.field(default=7200, validator=positive)
    #: How often a part is sent when the store fails, or cannot be reached; the pauses grow to a
    #: minute.
    retry_limit: int = attrs.field(default=10, validator=positive)


@attrs.frozen(repr=False)
class BackupsConfig:
    """`system.backups`: how backups are made and restored."""

    #: The compression of archives, unless the Panel asks for another level. `good_speed` and
    #: `good_compression` are Calagopus'.
    compression_level: str = attrs.field(
        default="best_speed",
        validator=one_of(
            "none", "best_speed", "good_speed", "good_compression", "best_compression"
        ),
    )
    #: The rate at which the archive of one backup is written, to leave the disk to others; 0 for
    #: no limit.
    write_limit: MiBPerSecond = attrs.field(default=0, validator=not_negative)
    #: The number of backups that are made at a time, at most 8; others wait (wingsd's own).
    concurrent: int = attrs.field(default=2, validator=at_most(8))
    #: Delete the backups of a server that is deleted, in `system.backup_directory` of this node.
    #: Pelican's; of the other families, nodes keep them.
    remove_backups_on_server_delete: bool = True
    #: The time after which a backup is read once more, to see whether it is still whole; a damaged
    #: one is named in the log and counted by a metric. 0 means never (wingsd's own).
    check_interval: Days = attrs.field(default=0, validator=not_negative)
    #: The rate at which backups are read for that; 0 for no limit (wingsd's own).
    check_limit: MiBPerSecond = attrs.field(default=20, validator=not_negative)
    wings: WingsBackupsConfig = WingsBackupsConfig()
    s3: S3BackupsConfig = S3BackupsConfig()
    #: Names, addresses and networks (CIDR) of stores that backups are restored from although they
    #: are not on the public Internet (Pelican's). With Pterodactyl and Calagopus, the Panel's own
    #: link needs no entry, only what it redirects to.
    restore_host_allowlist: tuple[str, ...] = ()
    #: The time for which the files that a restored backup has replaced stay in quarantine, where
    #: the user had all files deleted. 0: they are deleted at once (wingsd's own).
    quarantine_days: Days = attrs.field(default=3, validator=not_negative)


@attrs.frozen(repr=False)
class QuotasConfig:
    """`system.quotas`: project quotas of the filesystem of `system.data` (Pelican's)."""

    #: Have the filesystem hold the disk limits of servers, so that none can exceed its limit for a
    #: moment: ext4 or XFS, mounted with `prjquota`. The daemon then needs `CAP_SYS_ADMIN`; without
    #: it, or without quotas, it logs why and holds the limits by counting alone.
    enabled: bool = False


@attrs.frozen(repr=False)
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
    #: The time between two reports of the activity log to the Panel.
    activity_send_interval: Seconds = attrs.field(default=60, validator=positive)
    #: The maximum number of entries in one call.
    activity_send_count: int = attrs.field(default=100, validator=positive)
    #: The maximum number of entries that wait while the Panel does not take them; then the oldest
    #: are dropped (wingsd's own).
    activity_max_entries: int = attrs.field(default=100_000, validator=positive)
    #: The number of last console lines in the activity of a crash, at most 50; only with Pelican.
    crash_detection_activity_lines: int = attrs.field(default=2, validator=not_negative)
    passwd: PasswdConfig = PasswdConfig()
    machine_id: MachineIdConfig = MachineIdConfig()
    crash_detection: CrashDetectionConfig = CrashDetectionConfig()
    quotas: QuotasConfig = QuotasConfig()
    sftp: SftpConfig = SftpConfig()
    #: How directories below a server's are opened on behalf of users: by `openat2`, in which the
    #: kernel keeps each path inside, or by `openat`, component by component, as before Linux 5.6.
    #: `auto` is `openat2` where the kernel has it. Both are equally safe.
    openat_mode: str = attrs.field(default="auto", validator=one_of("auto", "openat", "openat2"))
    transfers: TransfersConfig = TransfersConfig()
    backups: BackupsConfig = BackupsConfig()
