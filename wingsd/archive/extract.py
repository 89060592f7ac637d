"""Extracts archives into a directory tree, hashed on the way.

They share the directories, and the limits. A file is in one of them: where two bring the same
name, which of them is last would be chance, so neither is taken. What can only be done when all
are there is done by `finish`: hard links whose files came later, and the directories' times.

Each stage is an iterator of blocks; hashing and decompressing run ahead in threads of their own,
the calling thread writes. Memory is bounded by the queues between them, whatever the archive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from attrs import evolve, frozen

from wingsd.archive.decompress import decompressed
from wingsd.archive.pipeline import Blocks, Digest, hashed, read_ahead
from wingsd.archive.policy import (
    MAX_NOTES,
    Kind,
    WarningLimiter,
    display,
    link_text,
    member_kind,
    member_mode,
    member_path,
    type_name,
)
from wingsd.archive.quota import DEFAULT, ArchiveLimits, ArchiveQuota
from wingsd.archive.tar.reader import Member, TarReader
from wingsd.archive.tree_writer import DeferredLinks, TreeWriter

__all__ = ["MAX_NOTES", "QUEUE", "Extracted", "SharedTreeWriter", "extract", "extract_part"]


class SharedTreeWriter:
    """A tree below the existing `directory`, for as many as `archives`; `close` must be called.

    The owner of everything is `owner`, as `extract` has it. Every method raises StorageError.
    """

    def __init__(
        self, directory: str, owner: tuple[int, int] | None, limits: ArchiveLimits, archives: int
    ) -> None:
        self._owner = owner
        # What one archive may take of the node's memory each of them may.
        self._limits = evolve(limits, directory_memory=limits.directory_memory * archives)
        with ExitStack() as stack:
            self._late = stack.enter_context(closing(DeferredLinks(directory)))
            first = TreeWriter(directory, owner, self._limits, late=self._late)
            self._first = stack.enter_context(closing(first))
            self._open = stack.pop_all()
        self._spaces: list[ArchiveQuota] = []

    def writer(self) -> TreeWriter:
        """Return what one archive is written with, in its thread."""
        first = self._first
        return TreeWriter(
            first.root, self._owner, self._limits, late=self._late, metadata=first.metadata
        )

    def space(self) -> ArchiveQuota:
        """Return what keeps account of one archive, and of all of them together."""
        space = ArchiveQuota(self._limits, self._first.file_system, self._spaces)
        self._spaces.append(space)
        return space

    def finish(self) -> None:
        """Make what only all archives together make possible; they must be there.

        Raises ArchiveError for a hard link to what is in none of them.
        """
        for path, target in self._late.take():
            self._first.hard_link(path, target)
        self._first.finish()

    def close(self) -> None:
        """Close every descriptor."""
        self._open.close()


QUEUE = 3 << 20
"""The most bytes that wait between two stages; there are two such places."""


@frozen
class Extracted:
    """What an archive held. Sizes in bytes; `sha256` in hex is that of the archive as sent."""

    sha256: str
    archive_bytes: int
    unpacked_bytes: int
    file_count: int
    directory_count: int
    symlink_count: int
    hard_link_count: int
    skipped_count: int


def extract(
    blocks: Iterator[bytes],
    directory: str,
    owner: tuple[int, int] | None,
    note: Callable[[str], None],
    *,
    limits: ArchiveLimits = DEFAULT,
    abort: Callable[[], None] | None = None,
    threads: bool = True,
) -> Extracted:
    """Extract the archive in `blocks` into the existing `directory`; block until it is done.

    All of `blocks` is read, also what follows the tar's end, so hash and checksums are whole.
    Everything gets `owner` (user id, group id), or the process's own ids for None; `directory`
    itself only where the archive has a member for it. `note` gets a line, from this thread, for
    each member that was left out or written otherwise; after `MAX_NOTES`, one that tells of more.

    When extraction fails while another thread waits inside `next(blocks)`, `abort` is called once
    and must make that call return or raise soon; without it this call waits for the next block.
    `threads=False` does everything in this thread.

    Raises ArchiveError (damaged, cut short, of an unknown kind, with a refused member, or beyond
    `limits`), BadRequest (the server's disk limit), StorageError (the disk), and whatever `blocks`
    raises. What was written until then stays.
    """
    with closing(TreeWriter(directory, owner, limits)) as writer:
        space = ArchiveQuota(limits, writer.file_system)
        extracted = _extract(blocks, writer, space, note, abort, threads)
        writer.finish()
    return extracted


def extract_part(
    blocks: Iterator[bytes],
    tree: SharedTreeWriter,
    note: Callable[[str], None],
    *,
    abort: Callable[[], None] | None = None,
    threads: bool = True,
) -> Extracted:
    """Extract one of several archives into the tree that they share; block until it is done.

    As `extract` does, but for what `tree.finish` does when all of them are there.
    """
    with closing(tree.writer()) as writer:
        return _extract(blocks, writer, tree.space(), note, abort, threads)


def _extract(
    blocks: Iterator[bytes],
    writer: TreeWriter,
    space: ArchiveQuota,
    note: Callable[[str], None],
    abort: Callable[[], None] | None,
    threads: bool,
) -> Extracted:
    digest = hashlib.sha256()
    intake = _Intake(blocks)
    with ExitStack() as stack:
        stage: Iterator[bytes] = hashed(intake, digest)
        if threads:
            ahead = stack.enter_context(read_ahead(stage, QUEUE, "wingsd-hash", abort=abort))
            stage = decompressed(ahead)
            stage = stack.enter_context(
                read_ahead(stage, QUEUE, "wingsd-inflate", abort=ahead.close)
            )
        else:
            stage = decompressed(stage)
        notes = WarningLimiter(note)
        unpacking = _Unpacking(TarReader(Blocks(stage)), writer, space, notes.tell)
        unpacking.run()
        notes.finish()
    return unpacking.result(digest, intake.size)


class _Intake:
    """Counts what comes in."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self._blocks)
        self.size += len(block)
        return block


class _Unpacking:
    """Carries the members from a reader to a writer, as the policy says."""

    def __init__(
        self,
        reader: TarReader,
        writer: TreeWriter,
        space: ArchiveQuota,
        tell: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._space = space
        self._tell = tell
        self._counts = dict.fromkeys(Kind, 0)
        self._files = 0
        self._unpacked = 0

    def run(self) -> None:
        """Write every member, then read to the very end."""
        reader, writer, claim = self._reader, self._writer, self._space.claim
        while (member := reader.next_member()) is not None:
            claim(member, writer.directories)
            kind = member_kind(member.typeflag, member.name, member.size)
            if kind is Kind.FILE:
                self._files += 1
                self._file(member)
            else:
                self._counts[kind] += 1
                self._other(kind, member)
        reader.drain()
        self._space.end(writer.directories)

    def result(self, digest: Digest, archive_bytes: int) -> Extracted:
        """Return the sums."""
        return Extracted(
            sha256=digest.hexdigest(),
            archive_bytes=archive_bytes,
            unpacked_bytes=self._unpacked,
            file_count=self._files,
            directory_count=self._counts[Kind.DIRECTORY],
            symlink_count=self._counts[Kind.SYMLINK],
            hard_link_count=self._counts[Kind.HARD_LINK],
            skipped_count=self._counts[Kind.SKIPPED],
        )

    def _file(self, member: Member) -> None:
        path = member_path(member.name)
        mode = self._mode(member)
        data = self._space.watched(member, self._reader.data())
        if member.segments is None:
            self._writer.file(path, mode, member.mtime, data)
        else:
            self._writer.sparse_file(path, mode, member.mtime, member.size, member.segments, data)
        self._unpacked += member.size

    def _other(self, kind: Kind, member: Member) -> None:
        name = member.name
        if kind is Kind.DIRECTORY:
            self._writer.directory(member_path(name), self._mode(member), member.mtime)
        elif kind is Kind.SYMLINK:
            self._writer.symlink(member_path(name), member.mtime, link_text(member.link, name))
        elif kind is Kind.HARD_LINK:
            self._writer.hard_link(member_path(name), member_path(member.link))
        else:
            self._tell(f"{display(name)} is left out: it is a {type_name(member.typeflag)}")

    def _mode(self, member: Member) -> int:
        mode, stripped = member_mode(member.mode)
        if stripped:
            self._tell(f"{display(member.name)} lost its set-user-id or set-group-id bit")
        return mode
