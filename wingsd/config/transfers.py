"""The section `system.transfers` of the configuration."""

from __future__ import annotations

import attrs

from wingsd.config.validators import (
    Bytes,
    BytesPerSecond,
    Days,
    MiB,
    MiBPerSecond,
    Seconds,
    at_most,
    console_line,
    header_text,
    nice_value,
    not_negative,
    one_of,
    part_of_one,
    positive,
)

__all__ = [
    "FormConfig",
    "LiveMovesConfig",
    "MovesConfig",
    "StoragePool",
    "StreamsConfig",
    "TransfersConfig",
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
