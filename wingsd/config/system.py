"""The section `system` of the configuration: directories, their owner, and what servers need."""

from __future__ import annotations

import attrs

from wingsd.config.servers import (
    CrashDetectionConfig,
    MachineIdConfig,
    PasswdConfig,
    PelicanPasswdConfig,
)
from wingsd.config.sftp import SftpConfig
from wingsd.config.transfers import TransfersConfig
from wingsd.config.validators import (
    Days,
    MiBPerSecond,
    Seconds,
    at_most,
    not_negative,
    one_of,
    path_field,
    positive,
)

__all__ = [
    "BackupsConfig",
    "QuotasConfig",
    "Rootless",
    "S3BackupsConfig",
    "SystemConfig",
    "User",
    "WingsBackupsConfig",
]


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
