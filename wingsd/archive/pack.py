"""The façade of the sending side: from a directory tree to the bytes of an archive, hashed.

Each stage is an iterator of blocks; reading and compressing run ahead in threads of their own,
the calling thread hashes and writes. Memory is bounded by the queues between them, whatever the
tree, and nothing of it is copied on disk.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from attrs import frozen

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.partition import Part
from wingsd.archive.pipeline import hashed, read_ahead
from wingsd.archive.policy import Kind, WarningLimiter
from wingsd.archive.tar.writer import Members

__all__ = ["QUEUE", "Packed", "pack"]

QUEUE = 1 << 20
"""The most bytes that wait between two stages; there are two such places."""


@frozen
class Packed:
    """What was sent. Sizes in bytes; `sha256` in hex is that of the archive as written.

    `packed_bytes` are those of file data; `skipped_count` is of what was left out.
    """

    sha256: str
    archive_bytes: int
    packed_bytes: int
    file_count: int
    directory_count: int
    symlink_count: int
    hard_link_count: int
    skipped_count: int


def pack(
    directory: str | Part,
    write: Callable[[bytes], None],
    *,
    links: bool,
    form: ArchiveFormat = ArchiveFormat.TAR_GZ,
    compression: Compression,
    note: Callable[[str], None],
    progress: Callable[[int], None],
    threads: bool = True,
) -> Packed:
    """Write the tree below `directory` with `write`, in that format; block until it is done.

    Of a part of a tree, what is in that alone; a hard link in it may have its file in another.

    Sent are directories (the root as `./`), regular files, and with `links` symlinks and hard
    links, with modes and times in nanoseconds. Without `links`, for nodes that make empty files
    of them, a hard link goes as one more file, and a symlink as a copy of the file it leads to
    inside the tree; all other symlinks are left out. Not sent are owners, which are the
    destination's to give, set-id bits, extended attributes, and sockets, FIFOs and devices. The
    holes of sparse files go as zeros.

    `write`, `note` and `progress` are called in this thread only. `note` gets a line for each
    thing that is left out or sent otherwise; after `MAX_NOTES`, one that tells of more.
    `progress` gets the bytes of file data read so far; they end as `measure` told when nothing
    changed, but for what it counts of directories and links, and beyond it where copies go in
    place of links. `threads=False` does everything in this thread.

    Raises StorageError where the disk fails, or a file with several names belongs to another user
    than the directory; DiskLimitExceeded beyond the part's limit; and whatever `write`, `note` and
    `progress` raise; all threads have then ended and all descriptors are closed.
    """
    digest = hashlib.sha256()
    waiting: deque[str] = deque()
    notes = WarningLimiter(waiting.append)
    part = Part(directory) if isinstance(directory, str) else directory
    members = Members(part, links=links, tell=notes.tell)
    archive_bytes = 0
    packer = compressor(form, compression)
    with ExitStack() as stack:
        stage: Iterator[bytes] = stack.enter_context(closing(members.blocks()))
        if threads:
            stage = ahead = stack.enter_context(read_ahead(stage, QUEUE, "wingsd-read"))
        if packer is not None:
            stage = compressed(stage, packer)
        if threads and packer is not None:
            stage = stack.enter_context(
                read_ahead(stage, QUEUE, "wingsd-deflate", abort=ahead.close)
            )
        for block in hashed(stage, digest):
            if block:
                write(block)
            archive_bytes += len(block)
            progress(members.packed_bytes)
            _deliver(waiting, note)
        notes.finish()
        _deliver(waiting, note)
    return _result(members, digest.hexdigest(), archive_bytes)


def _deliver(waiting: deque[str], note: Callable[[str], None]) -> None:
    while waiting:
        note(waiting.popleft())


def _result(members: Members, sha256: str, archive_bytes: int) -> Packed:
    return Packed(
        sha256=sha256,
        archive_bytes=archive_bytes,
        packed_bytes=members.packed_bytes,
        file_count=members.counts[Kind.FILE],
        directory_count=members.counts[Kind.DIRECTORY],
        symlink_count=members.counts[Kind.SYMLINK],
        hard_link_count=members.counts[Kind.HARD_LINK],
        skipped_count=members.counts[Kind.SKIPPED],
    )
