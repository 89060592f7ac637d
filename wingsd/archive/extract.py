"""Extracts archives into a directory tree, hashed on the way.

Each stage is an iterator of blocks; hashing and decompressing run ahead in threads of their own,
the calling thread writes. Memory is bounded by the queues between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Protocol

from attrs import define, evolve, field, frozen

from wingsd.archive.decompress import decompressed
from wingsd.archive.pipeline import Blocks, read_ahead
from wingsd.archive.policy import (
    Kind,
    WarningLimiter,
    attributes_line,
    link_text,
    member_kind,
    member_mode,
    member_path,
    type_name,
)
from wingsd.archive.quota import DEFAULT, ArchiveLimits, ArchiveQuota
from wingsd.archive.tar_reader import Member, TarReader
from wingsd.archive.tree_writer import DeferredLinks, TreeWriter
from wingsd.util.text import display

NOT_KEPT = "they cannot be kept here"
"""Why attributes are left out that were received."""


class SharedTreeWriter:
    """A tree below the existing `directory` that several `archives` are extracted to.

    The archives share directories and limits. A file name may be in one of them only: which of two
    came last would be chance. `finish` does what needs all of them: hard links to files that come
    later, and the directories' times. `owner` is as for `extract`. `close` must be called. Every
    method raises StorageError.
    """

    def __init__(
        self, directory: str, owner: tuple[int, int] | None, limits: ArchiveLimits, archives: int
    ) -> None:
        self._owner = owner
        # The limit is for one archive.
        self._limits = evolve(limits, directory_memory=limits.directory_memory * archives)
        with ExitStack() as stack:
            self._deferred_links = stack.enter_context(closing(DeferredLinks(directory)))
            first = TreeWriter(directory, owner, self._limits, deferred_links=self._deferred_links)
            self._first = stack.enter_context(closing(first))
            self._open = stack.pop_all()
        self._quotas: list[ArchiveQuota] = []
        self._writers: list[TreeWriter] = []

    def extract(
        self,
        blocks: Iterator[bytes],
        warn: Callable[[str], None],
        *,
        abort: Callable[[], None] | None = None,
    ) -> Extracted:
        """Extract one of the archives, in a thread of its own; block until it is done.

        Does what the function `extract` does, except for the part of `finish`.
        """
        first = self._first
        links, metadata = self._deferred_links, first.metadata
        writer = TreeWriter(first.root, self._owner, deferred_links=links, metadata=metadata)
        self._writers.append(writer)
        quota = ArchiveQuota(self._limits, first.file_system, self._quotas)
        self._quotas.append(quota)
        with closing(writer):
            return _extract(blocks, writer, quota, warn, abort)

    @property
    def without_attributes(self) -> int:
        """The number of files and directories, of all archives, that lack attributes or ACLs."""
        return self._first.without_attributes + sum(
            each.without_attributes for each in self._writers
        )

    def finish(self) -> None:
        """Make the deferred links and set the directories' metadata, after all archives.

        Raises ArchiveError for a hard link to a file that is in none of them.
        """
        for path, target in self._deferred_links.take():
            self._first.hard_link(path, target)
        self._first.finish()

    def close(self) -> None:
        """Close every descriptor."""
        self._open.close()


QUEUE = 3 << 20
"""The most bytes in each of the two queues between stages."""


@frozen(repr=False)
class Extracted:
    """The result of `extract`. Sizes in bytes; `sha256` in hex is that of the archive as sent.

    `counts` are the members by kind.
    """

    sha256: str
    archive_bytes: int
    unpacked_bytes: int
    counts: Mapping[Kind, int]


def extract(
    blocks: Iterator[bytes],
    directory: str,
    owner: tuple[int, int] | None,
    warn: Callable[[str], None],
    *,
    limits: ArchiveLimits = DEFAULT,
    abort: Callable[[], None] | None = None,
    visit: Callable[[bytes], None] = lambda name: None,
    threads: bool = True,
) -> Extracted:
    """Extract the archive in `blocks` into the existing `directory`; block until it is done.

    `blocks` is read to its end, beyond the tar's, for hash and checksums to be complete. All files
    get `owner` (user id, group id), or the process's own ids for None; `directory` itself only
    where the archive has a member for it. `warn` gets a line, from this thread, for each member
    that was left out or changed; after `MAX_WARNINGS`, one with the number of others. `visit` gets
    the name of each member, from this thread.

    When extraction fails while another thread waits inside `next(blocks)`, `abort` is called once
    and must make that call return or raise soon; else this function waits for the next block.
    `threads=False` does everything in this thread.

    Raises ArchiveError (damaged, cut short, of an unknown kind, with a refused member, or beyond
    `limits`), BadRequest (the server's disk limit), StorageError (the disk), and whatever `blocks`
    raises. Files written until then stay.
    """
    with closing(TreeWriter(directory, owner, limits)) as writer:
        quota = ArchiveQuota(limits, writer.file_system)
        extracted = _extract(blocks, writer, quota, warn, abort, visit, threads)
        writer.finish()
        if writer.without_attributes:
            warn(attributes_line(writer.without_attributes, NOT_KEPT))
    return extracted


def _extract(
    blocks: Iterator[bytes],
    writer: TreeWriter,
    quota: ArchiveQuota,
    warn: Callable[[str], None],
    abort: Callable[[], None] | None,
    visit: Callable[[bytes], None] = lambda name: None,
    threads: bool = True,
) -> Extracted:
    digest, size = hashlib.sha256(), 0

    def hashed() -> Iterator[bytes]:
        nonlocal size
        for block in blocks:
            size += len(block)
            digest.update(block)
            yield block

    with ExitStack() as stack:
        stage: Iterator[bytes] = hashed()
        if threads:
            ahead = stack.enter_context(read_ahead(stage, QUEUE, "wingsd-hash", abort=abort))
            stage = stack.enter_context(
                read_ahead(decompressed(ahead), QUEUE, "wingsd-inflate", abort=ahead.close)
            )
        else:
            stage = decompressed(stage)
        warnings = WarningLimiter(warn)
        extraction = Extraction(TarReader(Blocks(stage)), writer, quota, warnings.warn, visit)
        extraction.run()
        warnings.finish()
    return extraction.result(digest.hexdigest(), size)


class MemberReader(Protocol):
    """Reads the members of an archive, one after the other, as `TarReader` does."""

    def next_member(self) -> Member | None:
        """Return the next member, None at the archive's end."""

    def data(self) -> Iterable[memoryview]:
        """Return the data of the member, in pieces."""

    def drain(self) -> None:
        """Read what follows the end of the archive."""


@define(eq=False, repr=False)
class Extraction:
    """Writes the members of a reader with a writer, as the policy and the quota allow."""

    _reader: MemberReader
    _writer: TreeWriter
    _quota: ArchiveQuota
    _warn: Callable[[str], None]
    _visit: Callable[[bytes], None]
    _counts: dict[Kind, int] = field(init=False, factory=lambda: dict.fromkeys(Kind, 0))
    _files: int = field(init=False, default=0)
    _unpacked: int = field(init=False, default=0)

    def run(self) -> None:
        """Write every member, then read to the very end."""
        reader, writer, reserve = self._reader, self._writer, self._quota.reserve
        visit = self._visit
        while (member := reader.next_member()) is not None:
            reserve(member, writer.directories)
            visit(member.name)
            kind = member_kind(member.typeflag, member.name, member.size)
            if kind is Kind.FILE:
                self._files += 1
                self._file(member)
            else:
                self._counts[kind] += 1
                self._other(kind, member)
        reader.drain()
        self._quota.end(writer.directories)

    def result(self, sha256: str, archive_bytes: int) -> Extracted:
        """Return the sums."""
        counts = self._counts | {Kind.FILE: self._files}
        return Extracted(sha256, archive_bytes, self._unpacked, counts)

    def _file(self, member: Member) -> None:
        path = member_path(member.name)
        mode, more = self._mode(member), self._attributes(member)
        data = self._quota.watched(member, self._reader.data())
        sparse = (member.size, member.segments)
        self._writer.file(path, mode, member.mtime, data, more, *sparse)
        self._unpacked += member.size

    def _other(self, kind: Kind, member: Member) -> None:
        name = member.name
        if kind is Kind.DIRECTORY:
            mode, more = self._mode(member), self._attributes(member)
            self._writer.directory(member_path(name), mode, member.mtime, more)
        elif kind is Kind.SYMLINK:
            self._writer.symlink(member_path(name), member.mtime, link_text(member.link, name))
        elif kind is Kind.HARD_LINK:
            self._writer.hard_link(member_path(name), member_path(member.link))
        else:
            self._warn(f"{display(name)} is left out: it is {type_name(member.typeflag)}")

    def _attributes(self, member: Member) -> bytes:
        if member.has_more:
            self._writer.without_attributes += 1
        return member.attributes

    def _mode(self, member: Member) -> int:
        mode, stripped = member_mode(member.mode)
        if stripped:
            self._warn(f"{display(member.name)} lost its set-user-id or set-group-id bit")
        return mode
