"""Rewrites an archive into one of regular files alone, which Wings can restore.

Wings and Pelican's node call one function for each member (`RestoreBackup`): it fails on a
directory, of which the archive's root is the first, and makes empty files of hard links and of
symlinks. Directories are made as files need them, with the mode 0755. They read no extended
attributes and no ACLs.

So the other form has regular files only. A hard link becomes one more copy of its file; symlinks,
empty directories and the modes of directories are not in it, and are counted. Nothing is stored:
an archive with hard links is read once more for the copies of small files, and once more for each
further link to a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain

import attrs

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.decompress import decompressed
from wingsd.archive.pack import STEP
from wingsd.archive.pipeline import Blocks, joined, read_ahead
from wingsd.archive.policy import Kind, member_kind, member_mode, member_path
from wingsd.archive.tar_headers import END, FILE, member_header, padding, sparse_header
from wingsd.archive.tar_reader import Member, TarReader
from wingsd.errors import MemberRefused
from wingsd.util.text import display, readable_size

#: The most bytes that are read ahead of the compressor.
_QUEUE = 1 << 20
#: The largest file whose copies are written in one reading: its content is in memory.
_SMALL = 4 << 20
#: About the bytes of memory that the names of hard links may take, and what each takes beside its
#: name.
_LINKS_MEMORY, _ENTRY = 32 << 20, 200
#: The mode that directories get from Go nodes.
_USUAL_MODE = 0o755
#: The most pieces of a sparse file: Go's archive/tar reads no map above 1 MiB, since 1.25.2.
_MAX_SEGMENTS = 1 << 14
_ZEROS = bytes(STEP)
_ATTRIBUTES = "the extended attributes and ACLs"

Open = Callable[[], Generator[bytes, None, None]]


def has_only_files(blocks: Iterator[bytes]) -> bool:
    """Return whether all members of an archive are regular files; read to the first other one.

    Raises ArchiveError where it is damaged, or is no tar.
    """
    reader = TarReader(Blocks(decompressed(blocks)))
    return all(kind is Kind.FILE for _, kind in _members(reader))


@attrs.define
class NotKept:
    """Counts what the form of regular files has in another way, or not at all.

    `copies` are the hard links written as whole files of `copied_bytes` in all. `hard_links` are
    those left out: they are to symlinks, to nothing in the archive, or beyond the limit.
    """

    copies: int = 0
    copied_bytes: int = 0
    hard_links: int = 0
    symlinks: int = 0
    empty_directories: int = 0
    directory_modes: int = 0
    others: int = 0
    attributes: int = 0

    def __str__(self) -> str:
        """Return one line for people, an empty text where everything is kept."""
        links = ("{} hard link", "{} hard links")
        missing = (
            (self.symlinks, ("{} symlink", "{} symlinks")),
            (self.hard_links, links),
            (self.empty_directories, ("{} empty directory", "{} empty directories")),
            (self.directory_modes, ("the mode of {} directory", "the modes of {} directories")),
            (self.others, ("{} special file", "{} special files")),
            (self.attributes, (f"{_ATTRIBUTES} of {{}} file", f"{_ATTRIBUTES} of {{}} files")),
        )
        lost = ", ".join(each[count > 1].format(count) for count, each in missing if count)
        told = []
        if self.copies:
            copied = links[self.copies > 1].format(self.copies)
            size = readable_size(self.copied_bytes)
            told.append(f"{copied} as whole copies ({size} more)")
        if lost:
            told.append(f"without {lost}")
        return ", ".join(told)


class RegularFiles:
    """The plain tar of the regular files in an archive.

    `open_archive` opens the archive, compressed or not, at its start; its first reading goes to
    the end. Hard links are copied as long as all files take at most `limit` bytes; None for any.
    `files` counts the members written, `not_kept` what is missing, both complete at the end.
    """

    def __init__(self, open_archive: Open, limit: int | None = None) -> None:
        self.files = 0
        self.not_kept = NotKept()
        self._open = open_archive
        self._left = limit
        #: The names to be written of each file that has hard links.
        self._links: dict[bytes, list[bytes]] = {}
        self._memory = _LINKS_MEMORY
        #: The directories on the way to the last member, and whether each has a file.
        self._way: list[tuple[bytes, bool]] = []

    @contextmanager
    def packed(self, compression: Compression) -> Iterator[Iterator[bytes]]:
        """Yield the blocks of the tar as gzip, which a thread of its own reads. Use it once.

        They raise ArchiveError where the archive is damaged, and what reading it raises.
        """
        packer = compressor(ArchiveFormat.TAR_GZ, compression)
        assert packer is not None  # noqa: S101 - only the plain tar has none
        with read_ahead(self.blocks(), _QUEUE, "wingsd-read") as plain:
            yield compressed(plain, packer)

    def blocks(self) -> Iterator[bytes]:
        """Yield the tar in blocks of at least `STEP` bytes but the last. May be called once.

        Raises as `packed`.
        """
        return joined(chain(map(bytes, self._pieces()), (END,)), STEP)

    def _pieces(self) -> Iterator[bytes | memoryview]:
        with closing(self._open()) as blocks:
            reader = TarReader(Blocks(decompressed(blocks)))
            for member, kind in _members(reader):
                yield from self._first_time(member, kind, reader)
            self._leave(())
            reader.drain()
            for _ in blocks:  # its checksum is that of all of it
                pass
        while self._links:
            left = len(self._links), sum(map(len, self._links.values()))
            with closing(self._open()) as blocks:
                yield from self._copies(TarReader(Blocks(decompressed(blocks))))
            if (len(self._links), sum(map(len, self._links.values()))) == left:
                self.not_kept.hard_links += left[1]
                return

    def _first_time(
        self, member: Member, kind: Kind, reader: TarReader
    ) -> Iterator[bytes | memoryview]:
        path = member_path(member.name)
        name = b"/".join(path)
        if member.attributes or member.has_more:
            self.not_kept.attributes += 1
        if kind is Kind.DIRECTORY:
            self._leave(path)
            self._way += [(each, False) for each in path[len(self._way) :]]
            if path and member_mode(member.mode)[0] != _USUAL_MODE:
                self.not_kept.directory_modes += 1
        elif kind is Kind.FILE:
            self._note_file(path)
            if self._left is not None:
                self._left -= member.size
            yield from self._file(name, member, reader.data())
        elif kind is Kind.HARD_LINK:
            self._note_file(path)
            target = b"/".join(member_path(member.link))
            self._memory -= _ENTRY + len(name) + len(target)
            if self._memory < 0:
                self.not_kept.hard_links += 1
            else:
                self._links.setdefault(target, []).append(name)
        elif kind is Kind.SYMLINK:
            self.not_kept.symlinks += 1
        else:
            self.not_kept.others += 1

    def _file(
        self, name: bytes, member: Member, data: Iterable[bytes | memoryview]
    ) -> Iterator[bytes | memoryview]:
        """Yield one member with its data, and holes where it has them."""
        if not name:
            raise MemberRefused(display(member.name), "it has no name")
        self.files += 1
        mode = member_mode(member.mode)[0]
        segments, stored = _segments(member), member.size
        if segments is not None and len(segments) <= _MAX_SEGMENTS:
            yield sparse_header(name, mode, member.size, member.mtime, segments)
            stored = sum(length for _, length in segments)
        else:
            yield member_header(name, FILE, mode, member.size, member.mtime)
            if segments is not None:
                data = _filled(segments, member.size, data)
        yield from data
        yield padding(stored)

    # Hard links

    def _copies(self, reader: TarReader) -> Iterator[bytes | memoryview]:
        """Yield copies of the files that have hard links, as far as one reading has them."""
        for member, kind in _members(reader):
            name = b"/".join(member_path(member.name))
            waiting = self._links.get(name)
            if kind is not Kind.FILE or waiting is None:
                continue
            fitting = self._fitting(member.size, waiting)
            del self._links[name]
            if member.size > _SMALL and len(fitting) > 1:
                self._links[name] = fitting[1:]
                del fitting[1:]
            yield from self._copied(member, fitting, reader)
            if not self._links:
                return

    def _copied(
        self, member: Member, names: list[bytes], reader: TarReader
    ) -> Iterator[bytes | memoryview]:
        if len(names) > 1:
            content = b"".join(reader.data())
            for name in names:
                yield from self._file(name, member, (content,))
        elif names:
            yield from self._file(names[0], member, reader.data())
        self.not_kept.copies += len(names)
        self.not_kept.copied_bytes += len(names) * member.size
        if self._left is not None:
            self._left -= len(names) * member.size

    def _fitting(self, size: int, names: list[bytes]) -> list[bytes]:
        """Return the names of which copies fit the limit; the others are counted."""
        if self._left is None or not size:
            return names
        count = max(min(self._left // size, len(names)), 0)
        self.not_kept.hard_links += len(names) - count
        return names[:count]

    # Empty directories

    def _note_file(self, path: tuple[bytes, ...]) -> None:
        """Note that all directories on the way to a file are made with it."""
        self._leave(path[:-1])
        self._way = [(name, True) for name in path[:-1]]

    def _leave(self, path: tuple[bytes, ...]) -> None:
        """Leave the directories that are not on the way; count those without a file."""
        common = 0
        for (name, _), other in zip(self._way, path, strict=False):
            if name != other:
                break
            common += 1
        self.not_kept.empty_directories += sum(not has for _, has in self._way[common:])
        del self._way[common:]


def _members(reader: TarReader) -> Iterator[tuple[Member, Kind]]:
    while (member := reader.next_member()) is not None:
        yield member, member_kind(member.typeflag, member.name, member.size)


def _segments(member: Member) -> tuple[tuple[int, int], ...] | None:
    if member.segments is None:
        return None
    return tuple(zip(member.segments[::2], member.segments[1::2], strict=True))


def _filled(
    segments: Iterable[tuple[int, int]], size: int, data: Iterable[bytes | memoryview]
) -> Iterator[bytes | memoryview]:
    """Yield the data of a sparse file with zeros for its holes."""
    source = Blocks(bytes(piece) for piece in data)
    at = 0
    for offset, length in (*segments, (size, 0)):
        for done in range(at, offset, STEP):
            yield _ZEROS[: offset - done]
        yield from source.pieces(length)
        at = offset + length
