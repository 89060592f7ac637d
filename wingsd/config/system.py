"""`system`: directories, the user, and how servers are moved."""

from __future__ import annotations

import attrs

from wingsd.config.checks import nice_value, not_negative, one_of, path_field, positive

__all__ = ["Backups", "Form", "Rootless", "System", "Transfers", "User"]


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
    parts: int = attrs.field(default=256, validator=positive)
    #: The headers of one part: how many, and the bytes of each.
    headers: int = attrs.field(default=8, validator=positive)
    header_bytes: int = attrs.field(default=4096, validator=positive)


@attrs.frozen
class Transfers:
    """`system.transfers`; all of it is wingsd's own but `download_limit`."""

    #: MiB/s at which all servers together are received, and sent (wingsd's own). 0 is no limit; a
    #: `download_limit` below 0 is none either, as Wings has it.
    download_limit: int = 0
    upload_limit: int = attrs.field(default=0, validator=not_negative)
    #: The nice value of the threads that pack and unpack archives, 0 to 19 (wingsd's own). Their
    #: I/O priority follows it, ioprio_set(2).
    nice: int = attrs.field(default=10, validator=nice_value)
    #: Flush a received server to stable storage before the Panel is told (wingsd's own).
    durable: bool = True
    #: Servers received at a time, and further ones whose senders are kept waiting until it is
    #: their turn; whoever comes after them is answered 503 (wingsd's own).
    concurrent: int = attrs.field(default=8, validator=positive)
    waiting: int = attrs.field(default=64, validator=not_negative)
    #: Seconds a sender may be silent before its upload fails, and a destination without a word
    #: that anything arrives; and the bytes a second that must come from a sender on average over
    #: as long, while it is its turn (wingsd's own).
    stall_timeout: int = attrs.field(default=120, validator=positive)
    least_rate: int = attrs.field(default=1024, validator=not_negative)
    form: Form = Form()
    #: Seconds a server may take to stop before it is killed, to be sent away (wingsd's own).
    stop_grace: int = attrs.field(default=60, validator=positive)
    #: Days that a received server is kept whose success the Panel did not want (wingsd's own).
    quarantine_days: int = attrs.field(default=30, validator=positive)
    #: A PEM file of authorities trusted beside the system's, for the nodes that servers are sent
    #: to (wingsd's own).
    ca_file: str = ""
    #: MiB of a filesystem that received servers leave free, and never more than a twentieth of it;
    #: 0 is none (wingsd's own).
    disk_reserve: int = attrs.field(default=1024, validator=not_negative)
    #: Files, directories and links that one archive may hold (wingsd's own).
    max_members: int = attrs.field(default=10_000_000, validator=positive)
    #: MiB of memory for what one archive says of directories after what is in them; all else that
    #: it says of directories is kept on the disk (wingsd's own).
    directory_memory: int = attrs.field(default=16, validator=positive)


@attrs.frozen
class Backups:
    """`system.backups`: how hard archives are compressed, those of transfers too."""

    #: The two in the middle are Calagopus'.
    compression_level: str = attrs.field(
        default="best_speed",
        validator=one_of(
            "none", "best_speed", "good_speed", "good_compression", "best_compression"
        ),
    )


@attrs.frozen
class System:
    """`system`: the node's directories, its user and its time zone."""

    root_directory: str = path_field("/var/lib/pterodactyl")
    data: str = path_field("/var/lib/pterodactyl/volumes")
    #: Where local backups are kept. Wings of Pelican has another default, and so has this node
    #: then; also for the next.
    backup_directory: str = path_field("/var/lib/pterodactyl/backups")
    #: In it, the installation logs that come with a server: `install/UUID.log`.
    log_directory: str = path_field("/var/log/pterodactyl")
    username: str = "pterodactyl"
    user: User = User()
    timezone: str = "UTC"
    #: Console lines that a browser gets when it asks for what was before.
    websocket_log_count: int = attrs.field(default=150, validator=positive)
    #: Seconds a server may take to stop before it is killed (wingsd's own; Wings' figure).
    stop_timeout: int = attrs.field(default=600, validator=positive)
    transfers: Transfers = Transfers()
    backups: Backups = Backups()
