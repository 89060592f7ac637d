"""Packs a directory tree into an archive, hashed on the way.

Each stage is an iterator of blocks; reading and compressing run ahead in threads of their own,
the calling thread hashes and writes. Memory is bounded by the queues between them, and no copy
is made on disk.

The tar is POSIX ustar, with pax records where they are needed. Changes made meanwhile are handled
as GNU tar does: deleted files are left out, and of a file exactly as many bytes are written as its
header says. Each gives a warning. Nothing here ever has the kernel follow a symlink, so no path
leads out of the tree, whatever changes in it meanwhile.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing

from attrs import frozen

from wingsd.archive.compress import ArchiveFormat, Compression, compressed, compressor
from wingsd.archive.partition import Part, directory_key
from wingsd.archive.pipeline import read_ahead
from wingsd.archive.policy import Kind, WarningLimiter, member_mode
from wingsd.archive.tar_headers import (
    DIRECTORY,
    END,
    FILE,
    HARD_LINK,
    LATEST,
    NO_OWNER,
    SYMLINK,
    Segments,
    attribute_records,
    member_header,
    padding,
    sparse_header,
)
from wingsd.errors import DiskLimitExceeded, StorageError
from wingsd.filesystem.attributes import EVERYTHING, NOTHING, AttributeReader
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import (
    FILE_FLAGS,
    REPLACED,
    OpenDirectories,
    Path,
    file_type_name,
)
from wingsd.filesystem.walk import (
    VANISHED,
    FirstNames,
    Inode,
    Listing,
    gone,
    opened,
    unreadable,
    walk,
)
from wingsd.util.text import display

STEP = 240 << 10
"""Bytes of every block but the last; see `decompress.STEP` for the upper bound and
`compress.OUTPUT` for the lower."""

# A Go node hashes what its extraction reads of the archive. Its inflater returns this many bytes
# at once, and the tar reader reads nothing after the tar's end. When the tar ends with such a
# portion, the end of the gzip stream may stay unread, and the checksum does not match.
GO_PORTION = 32 << 10
"""The bytes that a Go node reads of an archive at once, when decompressed."""

_LATEST = LATEST * 1_000_000_000
_SYMLINK_MODE = 0o777
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO)  # open(2) for a symlink, and for a socket
_NOT_A_SYMLINK = (errno.EINVAL,)  # readlink(2) for anything else
_MIB = 1 << 20
_SECTOR = 512  # bytes of a unit of st_blocks on every file system: inode(7)
_LARGE_HOLES = 1 << 30

LEAST_HOLES = 1 << 20
"""The fewest bytes of holes for which a file is written as a sparse one."""

#: Smaller holes are written as zeros.
_LEAST_HOLE = 64 << 10
#: Files in more pieces are written in full: the map is in memory.
_MAX_SEGMENTS = 1 << 16


class TarWriter:
    """Writes a part of a tree as a tar, in blocks, and counts what it writes.

    `links`: whether symlinks and hard links are sent as such, or as copies of the files they lead
    to. `warn` is called with a line for each file that is left out or sent in another form.
    `packed_bytes` counts the file data so far, `counts` the members by kind.
    """

    def __init__(self, part: Part, *, links: bool, warn: Callable[[str], None]) -> None:
        self.packed_bytes = 0
        self.counts = dict.fromkeys(Kind, 0)
        self._links = links
        self._warn = warn
        self._part = part
        self._linked = FirstNames()
        #: The root's header, which may be repeated without effect.
        self._root_header = b""
        self._limit = part.limit
        #: A descriptor of the root, while it is read, and the ids of its owner.
        self._root = -1
        self._owner: Owner = (-1, -1)
        self._reader = AttributeReader(self._owner, NOTHING)
        #: Bytes left in the current block: reading no more saves cutting and copying.
        self._block_left = STEP

    @property
    def without_attributes(self) -> int:
        """The number of files and directories of which attributes are left out."""
        return self._reader.without

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield the archive in blocks of `STEP` bytes. May be called once.

        Raises StorageError where a file cannot be read or may be another user's, and
        DiskLimitExceeded for a file beyond the part's limit.
        """
        gathered: list[bytes] = []
        size = total = 0
        with closing(self._pieces()) as pieces:
            for piece in pieces:
                gathered.append(piece)
                size += len(piece)
                total += len(piece)
                while size >= STEP:
                    data = b"".join(gathered)
                    yield data[:STEP]
                    gathered = [data[STEP:]]
                    size -= STEP
                self._block_left = STEP - size
        if (total + len(END)) % GO_PORTION == 0:
            self.counts[Kind.DIRECTORY] += 1
            gathered.append(self._root_header)  # moves the end
        yield b"".join((*gathered, END))

    def _pieces(self) -> Generator[bytes, None, None]:
        with (
            opened(self._part.directory) as root,
            closing(SymlinkResolver(root)) as resolver,
            closing(walk(root, self._skip, self._selected)) as listings,
        ):
            self._root = root
            for listing in listings:
                if not listing.path:
                    self._owner = (listing.stat.st_uid, listing.stat.st_gid)
                    kept = EVERYTHING if self._part.attributes else NOTHING
                    self._reader = AttributeReader(self._owner, kept)
                if listing.is_first:
                    yield from self._directory(listing)
                prefix = listing.prefix
                for name in listing.files:
                    yield from self._file(listing.fd, name, prefix + name)
                for name in listing.symlinks:
                    yield from self._symlink(listing, name, prefix + name, resolver)
                for name in listing.others:
                    self._other(listing.fd, name, prefix + name)

    def _selected(self, listing: Listing) -> Listing:
        return self._part.tree_range.select(self._part.select(listing))

    def _directory(self, listing: Listing) -> Iterator[bytes]:
        is_in_part = self._part.tree_range.contains(directory_key(listing.path))
        if not is_in_part and self._root_header:
            return
        name = b"/".join(listing.path) or b"."
        try:
            header = self._header(listing.fd, name, listing.stat)
        except OSError as error:
            unreadable(name, error)
        self._root_header = self._root_header or header
        if is_in_part:
            self.counts[Kind.DIRECTORY] += 1
            yield header

    def _file(self, parent: int, leaf: bytes, name: bytes) -> Iterator[bytes]:
        try:
            fd = os.open(leaf, FILE_FLAGS, dir_fd=parent)
        except OSError as error:
            self._missing(name, error, _NOT_A_FILE)
            return
        yield from self._opened(fd, name)

    def _opened(self, fd: int, name: bytes) -> Iterator[bytes]:
        """Yield the member of an open file, and close it."""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                self._skip(name, REPLACED)
                return
            check_owner(found, name, self._owner[0])
            if (first := self._first_name(found, name)) is not None:
                yield self._hard_link(name, found, first)
            else:
                segments = self._segments(fd, found)
                self._check_size(found, name, written_in_full=segments is None)
                self.counts[Kind.FILE] += 1
                yield self._header(fd, name, found, segments)
                yield from self._data(fd, name, found, segments)
        except OSError as error:
            unreadable(name, error)
        finally:
            os.close(fd)

    def _segments(self, fd: int, found: os.stat_result) -> Segments | None:
        """Return where a file has data, None where all of it is written."""
        size, held = found.st_size, found.st_blocks * _SECTOR
        return data_segments(fd, size) if self._part.holes and size - held >= LEAST_HOLES else None

    def _check_size(self, found: os.stat_result, name: bytes, *, written_in_full: bool) -> None:
        size, held = found.st_size, found.st_blocks * _SECTOR
        if self._limit is not None and self.packed_bytes + size > self._limit:
            raise DiskLimitExceeded(
                f"with {display(name)}, which takes {_mib_above(size)} MiB "
                f"({_mib_above(held)} MiB on this disk), the server's files take "
                f"{_mib_above(self.packed_bytes + size)} MiB, its disk limit is "
                f"{self._limit // _MIB} MiB; raise its disk limit in the Panel, or delete files, "
                "and transfer it again"
            )
        if written_in_full and size - held >= _LARGE_HOLES:
            self._warn(
                f"{display(name)} is sparse: its {_mib_above(size)} MiB are sent in full, "
                f"{_mib_above(held)} MiB are on this disk"
            )

    def _data(
        self, fd: int, name: bytes, found: os.stat_result, segments: Segments | None
    ) -> Iterator[bytes]:
        size, missing, stored = found.st_size, 0, 0
        for offset, length in ((0, size),) if segments is None else segments:
            end = offset + length
            stored += length
            while offset < end:
                most = min(end - offset, self._block_left)
                # zeros go on to the end of the file, even if it grows again
                is_cut = missing and segments is None
                piece = b"" if is_cut else os.pread(fd, most, offset)
                if not piece:
                    piece = bytes(most)
                    missing += most
                offset += len(piece)  # noqa: PLW2901 - it is where the piece goes on
                self.packed_bytes += len(piece)
                yield piece
        self.packed_bytes += size - stored
        yield padding(stored)
        if missing:
            lost = "its end" if segments is None else "data"
            self._warn(f"{display(name)} shrank while it was read; {missing} zeros replace {lost}")
        if segments is not None or not missing:
            self._compare(os.fstat(fd), found, name)

    def _compare(self, after: os.stat_result, before: os.stat_result, name: bytes) -> None:
        if after.st_size > before.st_size:
            sent = before.st_size
            self._warn(f"{display(name)} grew while it was read; its first {sent} bytes are sent")
        elif (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            self._warn(f"{display(name)} changed while it was read")

    def _symlink(
        self, listing: Listing, leaf: bytes, name: bytes, resolver: SymlinkResolver
    ) -> Iterator[bytes]:
        try:
            found = os.stat(leaf, dir_fd=listing.fd, follow_symlinks=False)
            text = os.readlink(leaf, dir_fd=listing.fd)
            if not self._links:
                yield from self._opened(resolver.open((*listing.path, leaf), text), name)
                return
        except UnresolvableSymlink as error:
            self._skip(name, str(error))
        except OSError as error:
            self._missing(name, error, _NOT_A_SYMLINK)
        else:
            if (first := self._first_name(found, name)) is not None:
                yield self._hard_link(name, found, first)
                return
            self.counts[Kind.SYMLINK] += 1
            mtime = self._time(name, found)
            yield member_header(name, SYMLINK, _SYMLINK_MODE, 0, mtime, link=text)

    def _other(self, parent: int, leaf: bytes, name: bytes) -> None:
        try:
            found = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            self._missing(name, error)
        else:
            self._skip(name, f"it is {file_type_name(found.st_mode)}")

    def _first_name(self, found: os.stat_result, name: bytes) -> bytes | None:
        """Return the name under which the inode was sent already, None where it is to be sent."""
        if not self._links or found.st_nlink == 1:
            return None
        inode = (found.st_dev, found.st_ino)
        first = self._part.first_names.get(inode)
        if first is None or (first != name and not self._exists(first, inode)):
            self._linked.add(inode, name)
            first = self._linked.get(inode)
        return None if first == name else first

    def _exists(self, name: bytes, inode: Inode) -> bool:
        """Return whether the file still has this name, under which another part sends it."""
        try:
            found = os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == inode

    def _hard_link(self, name: bytes, found: os.stat_result, first: bytes) -> bytes:
        self.counts[Kind.HARD_LINK] += 1
        mode, mtime = member_mode(found.st_mode)[0], self._time(name, found)
        return member_header(name, HARD_LINK, mode, 0, mtime, link=first)

    def _header(
        self, fd: int, name: bytes, found: os.stat_result, segments: Segments | None = None
    ) -> bytes:
        """Return the header of an open file or directory, with `segments` of a sparse file."""
        mode, records, owner = self._permissions(fd, name, found)
        mtime = self._time(name, found)
        if segments is not None:
            return sparse_header(name, mode, found.st_size, mtime, segments, records, owner)
        typeflag, size = FILE, found.st_size
        if stat.S_ISDIR(found.st_mode):
            name, typeflag, size = name + b"/", DIRECTORY, 0
        return member_header(name, typeflag, mode, size, mtime, b"", records, owner)

    def _permissions(
        self, fd: int, name: bytes, found: os.stat_result
    ) -> tuple[int, bytes, Owner]:
        """Return the mode of an open file, the records of its attributes, and the owner for them.

        With an ACL the mode is that without it: a reader without ACLs gives the group no more.
        """
        mode, stripped = member_mode(found.st_mode)
        if stripped:
            self._warn(f"{display(name)} is sent without its set-user-id or set-group-id bit")
        value, mode = self._reader.read(fd, found, mode)
        return mode, *(attribute_records(value, self._owner) if value else (b"", NO_OWNER))

    def _time(self, name: bytes, found: os.stat_result) -> int:
        mtime = found.st_mtime_ns
        if -_LATEST <= mtime <= _LATEST:
            return mtime
        self._warn(
            f"{display(name)} is sent with another modification time: its own is out of range"
        )
        return _LATEST if mtime > 0 else -_LATEST

    def _missing(self, name: bytes, error: OSError, replaced: tuple[int, ...] = ()) -> None:
        """Skip a file that was deleted or replaced; raise StorageError for other errors."""
        if gone(error):
            self._skip(name, VANISHED)
        elif error.errno in replaced:
            self._skip(name, REPLACED)
        else:
            unreadable(name, error)

    def _skip(self, name: bytes, reason: str) -> None:
        self.counts[Kind.SKIPPED] += 1
        self._warn(f"{display(name)} is left out: {reason}")


def check_owner(found: os.stat_result, name: bytes, owner: int) -> None:
    """Refuse a hard link to a file that may be another user's, from outside the server.

    `owner` is the user of the server's directory. Linux allows such links where
    `fs.protected_hardlinks` is off, proc_sys_fs(5). Raises StorageError.
    """
    if found.st_nlink > 1 and found.st_uid != owner:
        raise StorageError.reading(
            f"{display(name)} belongs to user {found.st_uid}, the server's directory to user "
            f"{owner}, and it has {found.st_nlink} hard links: it may be a file from "
            "outside the server and is not sent; if it is the server's, give it to its "
            f"user (chown {owner}), else delete it, and transfer the server again"
        )


def _mib_above(size: int) -> int:
    return -(-size // _MIB)


def data_segments(fd: int, size: int) -> Segments | None:
    """Return where the first `size` bytes of a file have data; None where it is not sparse.

    It may change meanwhile: data that is in none of the segments was not there when they were
    found. Raises OSError.
    """
    found: list[tuple[int, int]] = []
    at = stored = 0
    while at < size and (start := _next_data(fd, at)) < size:
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if end <= start:  # it was cut
            break
        if found and start - sum(found[-1]) < _LEAST_HOLE:
            start, length = found.pop()
            stored -= length
        found.append((start, end - start))
        stored += end - start
        if len(found) > _MAX_SEGMENTS:
            return None
        at = end
    return tuple(found) if size - stored >= LEAST_HOLES else None


def _next_data(fd: int, at: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole is left
            return 1 << 62
        raise


_CONTAINER_ROOT = (b"", b"home", b"container")  # the server's directory inside its container
_MAX_SYMLINKS = 40  # as many as Linux follows: path_resolution(7)


class UnresolvableSymlink(Exception):
    """A symlink that does not lead to a regular file inside the tree; the text is the reason."""


class SymlinkResolver:
    """Finds the files to which symlinks lead, for nodes that cannot receive symlinks.

    Symlinks are resolved within the tree below the descriptor `root`, component by component.
    `close` must be called.
    """

    def __init__(self, root: int) -> None:
        self._directories = OpenDirectories(root, lambda path: None)

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def open(self, link: Path, text: bytes) -> int:
        """Return a new descriptor of the regular file that the symlink `link` leads to.

        Absolute texts are resolved as in the server's container: `/home/container` is the root of
        the tree, all else is outside. The file may have become something else before it was
        opened: fstat shows it. Raises UnresolvableSymlink, and OSError where the disk fails.
        """
        try:
            return self._resolve(link, text)
        except OSError as error:
            # ENAMETOOLONG: no file can have such a name, but a symlink's text may hold it
            if isinstance(error, FileNotFoundError) or error.errno == errno.ENAMETOOLONG:
                raise UnresolvableSymlink(
                    f"it is a symlink to {display(text)}, which does not exist"
                ) from None
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL):
                raise UnresolvableSymlink(REPLACED) from None
            raise

    def _resolve(self, link: Path, text: bytes) -> int:
        directory, rest = self._start(list(link[:-1]), text)
        followed = 1
        while rest:
            part = rest.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not directory:
                    raise _outside(text)
                directory.pop()
                continue
            parent = self._directories.get(tuple(directory), make=False)
            mode = os.stat(part, dir_fd=parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                directory.append(part)
            elif stat.S_ISLNK(mode):
                followed += 1
                if followed > _MAX_SYMLINKS:
                    raise UnresolvableSymlink("it is a symlink in a loop of symlinks")
                directory, more = self._start(directory, os.readlink(part, dir_fd=parent))
                rest.extendleft(reversed(more))
            elif rest:
                raise FileNotFoundError  # a component after a file's: ENOTDIR to the kernel
            elif not stat.S_ISREG(mode):
                raise UnresolvableSymlink(f"it is a symlink to {file_type_name(mode)}")
            else:
                return os.open(part, FILE_FLAGS, dir_fd=parent)
        raise UnresolvableSymlink(
            "it is a symlink to a directory, which the other node does not accept"
        )

    def _start(self, directory: list[bytes], text: bytes) -> tuple[list[bytes], deque[bytes]]:
        """Return the directory to which `text` is relative, and its components."""
        if not text.startswith(b"/"):
            return directory, deque(text.split(b"/"))
        parts = text.split(b"/")
        if tuple(parts[:3]) != _CONTAINER_ROOT:
            raise _outside(text)
        return [], deque(parts[3:])


def _outside(text: bytes) -> UnresolvableSymlink:
    return UnresolvableSymlink(
        f"it is a symlink to {display(text)}, outside the server's directory"
    )


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
