"""Targets: required figures and goals, and the figures of Go Wings on such a machine."""

from __future__ import annotations

from attrs import frozen

__all__ = [
    "BACKUP",
    "CPU",
    "DOWNLOAD",
    "DURABLE",
    "FAST",
    "GROWTH",
    "IDLE",
    "LISTINGS",
    "LIVE_DOWNTIME",
    "LIVE_MANY",
    "LIVE_RATIO",
    "MEMORY",
    "MOVE_AGAIN",
    "MOVE_CPU",
    "MOVE_GROWTH",
    "MOVE_LINE",
    "MOVE_LINE_BYTES",
    "MOVE_TIME",
    "REST",
    "RESTORE",
    "SEED_DOWNTIME",
    "SEED_ROUNDS",
    "SEND",
    "SFTP",
    "SFTP_DELAY",
    "SFTP_GROWTH",
    "SFTP_LOSS",
    "SFTP_MEMORY",
    "SFTP_SMALL_DOWN",
    "SFTP_SMALL_UP",
    "START",
    "Target",
]


@frozen
class Target:
    """The figure of Go Wings (None if unknown), the required figure, and the goal."""

    wings: float | None
    required: float
    goal: float | None


#: Time, against `tar -xzf`.
FAST = {
    "big": Target(0.53, 0.48, 0.30),
    "mixed": Target(1.01, 0.60, 0.45),
    "small": Target(2.0, 1.2, 0.8),
}
#: Time, against `tar -xzf` and `sync -f`. Wings never syncs. Without a goal, the limit is the
#: disk's own write speed.
DURABLE = {
    "big": Target(None, 0.65, None),
    "mixed": Target(None, 0.65, None),
    "small": Target(None, 1.0, 0.7),
}
#: CPU seconds of the daemon while it receives.
CPU = {
    "big": Target(4.9, 4.9, 3.4),
    "mixed": Target(12.3, 12.3, 8.6),
    "small": Target(4.2, 4.2, 2.9),
}
#: MiB, for any size.
MEMORY = Target(45, 120, 80)
#: Time, against `tar -cz` at level 1 piped to curl.
SEND = Target(None, 0.6, 0.45)
#: MiB of a node that does nothing, and CPU seconds from its start to its first answer.
IDLE = Target(34, 80, None)
START = Target(0.03, 0.8, None)
#: MiB, a minute after sixteen servers were received at once.
REST = Target(None, 110, None)
#: The speed of a download, against nginx.
DOWNLOAD = Target(None, 0.8, None)
#: MiB more memory while a file of 1 GiB is downloaded.
GROWTH = Target(None, 16, None)
#: Seconds to list a directory, by its entries.
LISTINGS = {10_000: Target(None, 0.3, None), 100_000: Target(None, 3, None)}
#: The speed of SFTP against OpenSSH's server: of a large file, and of small ones up and down.
SFTP = Target(None, 0.9, None)
SFTP_SMALL_UP = Target(0.70, 0.7, None)
SFTP_SMALL_DOWN = Target(0.81, 0.75, None)
#: MiB of SFTP's process with eight clients, and of the daemon more than before when it has ended.
SFTP_MEMORY = Target(None, 110, None)
SFTP_GROWTH = Target(None, 3, None)
#: Milliseconds of a line of the console, and the part of a transfer's speed that is lost.
SFTP_DELAY = Target(None, 50, None)
SFTP_LOSS = Target(None, 0.1, None)
#: Time to make a backup, against `tar -cz` at level 1; and to restore one, against receiving the
#: same archive.
BACKUP = Target(None, 0.35, None)
RESTORE = Target(None, 1.3, None)
#: Seconds for which a running server is down when it is moved, also one with 500,000 files; and
#: how much less that is than when it is stopped first, on a line of 30 MB/s.
LIVE_DOWNTIME = Target(None, 3.0, None)
LIVE_MANY = Target(None, 7.0, None)
LIVE_RATIO = Target(None, 20.0, None)
#: Seconds that a server is down whose copy has followed it, and its rounds since the order.
SEED_DOWNTIME = Target(None, 5, None)
SEED_ROUNDS = Target(None, 1, None)
#: Milliseconds that a game's tick is later than without a move, at the 99th percentile.
QUIET = Target(None, 10, None)
#: Time and CPU of a move by batches, against the single stream, and MiB that are sent twice.
MOVE_TIME = Target(None, 1.15, None)
MOVE_CPU = Target(None, 1.3, None)
MOVE_AGAIN = Target(None, 128, None)
#: On a line of 20 MB/s: time against the single stream, and bytes on the line against the world's.
MOVE_LINE = Target(None, 0.9, None)
MOVE_LINE_BYTES = Target(None, 0.6, None)
#: How much longer a MiB or a file of a large server may take than of a small one.
MOVE_GROWTH = Target(None, 1.3, None)
