"""Packs a directory tree into an archive, hashed on the way.

Each stage is an iterator of blocks; reading and compressing run ahead in threads of their own,
the calling thread hashes and writes. Memory is bounded by the queues between them, and no copy
is made on disk.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing

from attrs import frozen

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.partition import Part
from wingsd.archive.pipeline import read_ahead
from wingsd.archive.policy import Kind, WarningLimiter
from wingsd.archive.tar_writer import TarWriter

QUEUE = 1 << 20
"""The most bytes in each of the two queues between stages."""


@frozen
class Packed:
    """The result of `pack`. Sizes in bytes; `sha256` in hex is that of the archive as written.

    `packed_bytes` counts file data, `counts` the members by kind, with the files that were left
    out, and `without_attributes` those of which extended attributes or ACLs were left out.
    """

    sha256: str
    archive_bytes: int
    packed_bytes: int
    counts: Mapping[Kind, int]
    without_attributes: int


def pack(
    directory: str | Part,
    write: Callable[[bytes], object],
    *,
    links: bool,
    form: ArchiveFormat = ArchiveFormat.TAR_GZ,
    compression: Compression,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
    threads: bool = True,
) -> Packed:
    """Write the tree below `directory` with `write`, in format `form`; block until it is done.

    A hard link in one part of a tree may have its file in another part.

    Sent are directories (the root as `./`), regular files, and with `links` symlinks and hard
    links, with modes and times in nanoseconds. Without `links`, for nodes that make empty files
    of them, a hard link is sent as one more file, and a symlink as a copy of the file it leads to
    inside the tree; other symlinks are left out. Unless the part says otherwise, the
    attributes are sent that `filesystem.attributes` reads. Not sent are owners, which the
    destination sets, set-id bits, sockets, FIFOs and devices. Holes of sparse files are sent as
    zeros, unless the part says otherwise.

    `write`, `warn` and `progress` are called in this thread only. `warn` gets a line for each file
    that is left out or sent in another form; after `MAX_WARNINGS`, one with the number of others.
    `progress` gets the bytes of file data and the number of files read so far. At the end the
    bytes equal what `measure` returns, without its share for directories and links, if nothing
    changed; with copies in place of links they exceed it. `threads=False` does everything in this
    thread.

    Raises StorageError where the disk fails, or a hard-linked file belongs to another user than
    the directory; DiskLimitExceeded beyond the part's limit; and whatever `write`, `warn` and
    `progress` raise; all threads have then ended and all descriptors are closed.
    """
    digest = hashlib.sha256()
    waiting: deque[str] = deque()
    warnings = WarningLimiter(waiting.append)
    part = Part(directory) if isinstance(directory, str) else directory
    writer = TarWriter(part, links=links, warn=warnings.warn)
    archive_bytes = 0
    packer = compressor(form, compression)
    with ExitStack() as stack:
        stage: Iterator[bytes] = stack.enter_context(closing(writer.blocks()))
        if threads:
            stage = ahead = stack.enter_context(read_ahead(stage, QUEUE, "wingsd-read"))
        if packer is not None:
            stage = compressed(stage, packer)
        if threads and packer is not None:
            stage = stack.enter_context(
                read_ahead(stage, QUEUE, "wingsd-deflate", abort=ahead.close)
            )
        for block in stage:
            digest.update(block)
            if block:
                write(block)
            archive_bytes += len(block)
            progress(writer.packed_bytes, writer.counts[Kind.FILE])
            _deliver(waiting, warn)
        warnings.finish()
        _deliver(waiting, warn)
    counts, without = writer.counts, writer.without_attributes
    return Packed(digest.hexdigest(), archive_bytes, writer.packed_bytes, counts, without)


def _deliver(waiting: deque[str], warn: Callable[[str], None]) -> None:
    while waiting:
        warn(waiting.popleft())
