"""`system`: directories, the user, and how servers are moved."""

from __future__ import annotations

import attrs

from wingsd.config.validators import (
    Bytes,
    BytesPerSecond,
    Days,
    MiB,
    MiBPerSecond,
    Seconds,
    header_text,
    nice_value,
    not_negative,
    one_of,
    path_field,
    positive,
)

__all__ = [
    "BackupsConfig",
    "FormConfig",
    "Rootless",
    "StoragePool",
    "StreamsConfig",
    "SystemConfig",
    "TransfersConfig",
    "User",
]


@attrs.frozen
class Rootless:
    """`system.user.rootless`: container ids when the engine runs without root."""

    #: The engine runs without root: containers get the ids here, and no account is looked up.
    enabled: bool = False
    #: The user id inside the containers.
    container_uid: int = 0
    #: The group id inside the containers.
    container_gid: int = 0


@attrs.frozen
class User:
    """`system.user`: the owner of every server's files."""

    #: The user id. That of the account `system.username` counts, where there is one.
    uid: int = 988
    #: The group id. That of the account `system.username` counts, where there is one.
    gid: int = 988
    rootless: Rootless = Rootless()


@attrs.frozen
class FormConfig:
    """`system.transfers.form`: bounds for the parts of an upload."""

    #: The parts of one upload. It is more than any sender needs: an archive, a checksum, a log,
    #: and as many backups (wingsd's own).
    parts: int = attrs.field(default=256, validator=positive)
    #: The headers of one part (wingsd's own).
    headers: int = attrs.field(default=8, validator=positive)
    #: One header of a part (wingsd's own).
    header_bytes: Bytes = attrs.field(default=4096, validator=positive)


@attrs.frozen
class StreamsConfig:
    """`system.transfers.streams`: a server that moves in several requests at the same time."""

    #: As many beside the first are taken for one server, and sent where the Panel asks for them:
    #: never more than 7 (wingsd's own). Each that is received takes a place in `concurrent` and
    #: the memory of one upload; where there are not enough for all, they are read in turn.
    most: int = attrs.field(default=16, validator=not_negative)
    #: How long the others may be missing when one of them has come, before all of them fail
    #: (wingsd's own).
    within: Seconds = attrs.field(default=60, validator=positive)


@attrs.frozen
class StoragePool:
    """`system.transfers.storage_pool`: a volume that several nodes share (Pelican's)."""

    #: `system.data` is on a volume that other nodes have as well: between them a server moves
    #: without being copied, and its files stay when the Panel has it deleted at the source. It
    #: takes `uuid`, too, to tell the nodes' own directories on the volume apart.
    enabled: bool = False
    #: The name of the pool, the same on all of its nodes; upper and lower case are the same.
    pool_name: str = attrs.field(default="", validator=header_text)

    @property
    def name(self) -> str:
        """The pool's name, empty where there is none."""
        return self.pool_name if self.enabled else ""


@attrs.frozen
class TransfersConfig:
    """`system.transfers`: how servers are moved."""

    #: The rate at which all servers together are received; those at work share it equally. 0 is
    #: no limit, and neither is a number below it, as Wings has it.
    download_limit: MiBPerSecond = 0
    #: The same for all that are sent; 0 is no limit (wingsd's own).
    upload_limit: MiBPerSecond = attrs.field(default=0, validator=not_negative)
    #: The nice value of the threads that pack and unpack archives, by which the daemon's other
    #: work comes first (wingsd's own). Their I/O priority follows it, ioprio_set(2). Containers
    #: have control groups of their own, within which alone nice values are compared, sched(7):
    #: to yield to them, give the daemon's unit a low `CPUWeight=` and `IOWeight=`,
    #: systemd.resource-control(5).
    nice: int = attrs.field(default=10, validator=nice_value)
    #: Flush a received server to stable storage before the Panel is told, since the Panel then
    #: deletes the other copy (wingsd's own). Turn it off only where losing a server is no loss.
    durable: bool = True
    #: Servers received at a time (wingsd's own).
    concurrent: int = attrs.field(default=8, validator=positive)
    #: Further ones whose senders are slowed down until it is their turn; whoever comes after them
    #: is answered 503, with `Retry-After` (wingsd's own).
    waiting: int = attrs.field(default=64, validator=not_negative)
    #: How long a sender may be silent before its upload fails, and how long a destination may
    #: acknowledge nothing of what it is sent (wingsd's own).
    stall_timeout: Seconds = attrs.field(default=120, validator=positive)
    #: What must come from a sender on average over `stall_timeout`, while it is its turn; 0 is
    #: any rate (wingsd's own).
    least_rate: BytesPerSecond = attrs.field(default=1024, validator=not_negative)
    #: How long a destination whose answer is lost, as by a proxy's time limit, may go on with its
    #: work once it has everything: the Panel is asked meanwhile whether the server has moved. 0 is
    #: no such time (wingsd's own).
    answer_grace: Seconds = attrs.field(default=600, validator=not_negative)
    #: How long a destination that has everything may give no answer, before the Panel is asked
    #: whose the server is; 0 is no limit (wingsd's own).
    answer_timeout: Seconds = attrs.field(default=4 * 3600, validator=not_negative)
    form: FormConfig = FormConfig()
    streams: StreamsConfig = StreamsConfig()
    storage_pool: StoragePool = StoragePool()
    #: How long a server may take to stop before it is killed, to be sent away (wingsd's own).
    stop_grace: Seconds = attrs.field(default=60, validator=positive)
    #: How long a whole copy of a server is kept that the Panel has on another node (wingsd's own).
    quarantine_days: Days = attrs.field(default=30, validator=positive)
    #: A PEM file of authorities trusted beside the system's, for the nodes that servers are sent
    #: to (wingsd's own).
    ca_file: str = ""
    #: What received servers leave free of the filesystem of `system.data`, and never more than a
    #: twentieth of it; 0 is nothing (wingsd's own).
    disk_reserve: MiB = attrs.field(default=1024, validator=not_negative)
    #: Inodes of that filesystem that received servers leave free, and never more than a twentieth
    #: of them; 0 is none (wingsd's own). Every file, directory and symlink takes one.
    inode_reserve: int = attrs.field(default=20_000, validator=not_negative)
    #: Files, directories and links that one archive may hold (wingsd's own).
    max_members: int = attrs.field(default=10_000_000, validator=positive)
    #: Memory for what one archive says of directories after what is in them; all else that it
    #: says of directories is kept on the disk (wingsd's own).
    directory_memory: MiB = attrs.field(default=16, validator=positive)


@attrs.frozen
class BackupsConfig:
    """`system.backups`: how hard archives are compressed."""

    #: The two in the middle are Calagopus'.
    compression_level: str = attrs.field(
        default="best_speed",
        validator=one_of(
            "none", "best_speed", "good_speed", "good_compression", "best_compression"
        ),
    )


@attrs.frozen
class SystemConfig:
    """`system`: the node's directories, its user and its time zone."""

    #: Where the node keeps what it must not forget: its journal, `wingsd.db`.
    root_directory: str = path_field("/var/lib/pterodactyl")
    #: The servers' files, one directory each. A server being received lies beside this directory,
    #: so there must be room for it on the same filesystem.
    data: str = path_field("/var/lib/pterodactyl/volumes")
    #: Where local backups are kept. Wings of Pelican has another default, and so has this node
    #: then; also for the next.
    backup_directory: str = path_field("/var/lib/pterodactyl/backups")
    #: In it, the logs of servers' installations, which go along with them: `install/UUID.log`.
    log_directory: str = path_field("/var/log/pterodactyl")
    #: The account that the servers' files belong to. When there is none of that name, they belong
    #: to the ids in `system.user`.
    username: str = "pterodactyl"
    user: User = User()
    #: The time zone of the containers, their variable `TZ`.
    timezone: str = "UTC"
    #: Lines of the console, and of a transfer, that a browser gets when it asks for the last ones.
    websocket_log_count: int = attrs.field(default=150, validator=positive)
    #: How long a server may take to stop before it is killed (wingsd's own).
    stop_timeout: Seconds = attrs.field(default=600, validator=positive)
    transfers: TransfersConfig = TransfersConfig()
    backups: BackupsConfig = BackupsConfig()
