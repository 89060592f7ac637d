"""Writes a directory tree as a tar: POSIX ustar, with pax records where they are needed.

Functions of bytes, the counterpart of `headers`. Source of the rules: IEEE Std 1003.1 (pax,
"Extended Header" and "ustar Interchange Format").

The standard library's `TarInfo.tobuf` writes the same, but takes 35 microseconds for a name and a
time with nanoseconds; to open, read and close a small file takes 7, and this here 5.

What changes meanwhile is dealt with as GNU tar does: what is gone is left out, and of a file
exactly as many bytes are written as its header says; each such thing is told by a note.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from struct import Struct
from zlib import adler32

from wingsd.archive.errors import DiskLimitExceeded
from wingsd.archive.partition import Part
from wingsd.archive.policy import Kind, display, member_mode
from wingsd.archive.symlinks import OPEN_FILE, LeadsNowhere, SymlinkFollower, special_name
from wingsd.archive.tar.headers import BLOCK, LATEST
from wingsd.archive.tree_range import Listing, directory_key
from wingsd.archive.walk import (
    REPLACED,
    VANISHED,
    FirstNames,
    Inode,
    gone,
    opened,
    unreadable,
    walk,
)
from wingsd.errors import StorageError

__all__ = [
    "DIRECTORY",
    "END",
    "FILE",
    "HARD_LINK",
    "STEP",
    "SYMLINK",
    "Members",
    "member_header",
    "padding",
]

FILE, HARD_LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
"""The types of members that are written."""

END = bytes(2 * BLOCK)
"""What ends an archive."""

_PACK = Struct("100s8s8s8s12s12s8sc100s8s247x").pack
_NOBODY = b"0000000\0"  # whose the files are is for the destination to decide
_MAGIC = b"ustar\x0000"
_CHECKSUM = 148
_FIELD = 100
_LIMIT = 8**11
_EXTENDED = b"x"
_EXTENDED_NAME = b"././@PaxHeader"
_SECOND = 1_000_000_000


def member_header(
    name: bytes, typeflag: bytes, mode: int, size: int, mtime: int, link: bytes = b""
) -> bytes:
    """Return all blocks of header of one member.

    `size` is in bytes, `mtime` in nanoseconds since the epoch, of any sign. Nothing is judged or
    changed: names are those of the file system, in whatever encoding.
    """
    records = b""
    seconds, fraction = divmod(mtime, _SECOND)
    if fraction or not 0 <= seconds < _LIMIT:
        records += _record(b"mtime", _time(mtime))
        seconds = min(max(seconds, 0), _LIMIT - 1)
    if size >= _LIMIT:
        records += _record(b"size", b"%d" % size)
        field_size = 0
    else:
        field_size = size
    texts = [
        _record(key, text)
        for key, text in ((b"path", name), (b"linkpath", link))
        if len(text) > _FIELD or not text.isascii()
    ]
    if texts:
        records = _charset(name + link) + records + b"".join(texts)
    block = _block(_fitting(name), typeflag, mode, field_size, seconds, _fitting(link))
    if not records:
        return block
    head = _block(_EXTENDED_NAME, _EXTENDED, 0o644, len(records), 0, b"")
    return b"".join((head, records, padding(len(records)), block))


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes of data."""
    return bytes(-size % BLOCK)


def _block(name: bytes, typeflag: bytes, mode: int, size: int, seconds: int, link: bytes) -> bytes:
    block = _PACK(
        name,
        b"%07o\0" % mode,
        _NOBODY,
        _NOBODY,
        b"%011o\0" % size,
        b"%011o\0" % seconds,
        b"        ",
        typeflag,
        link,
        _MAGIC,
    )
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    return b"".join((block[:_CHECKSUM], b"%06o\0 " % total, block[_CHECKSUM + 8 :]))


def _fitting(text: bytes) -> bytes:
    """Cut to the field; without a slash at its end, which would make a file a directory."""
    return text if len(text) <= _FIELD else text[:_FIELD].rstrip(b"/")


def _record(key: bytes, value: bytes) -> bytes:
    """Return one record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _time(mtime: int) -> bytes:
    seconds, fraction = divmod(abs(mtime), _SECOND)
    return b"%b%d.%09d" % (b"-" if mtime < 0 else b"", seconds, fraction)


def _charset(texts: bytes) -> bytes:
    """Say so where names are not UTF-8, as pax takes them to be (POSIX pax, "hdrcharset")."""
    try:
        texts.decode()
    except UnicodeDecodeError:
        return _record(b"hdrcharset", b"BINARY")
    return b""


STEP = 240 << 10
"""Exactly as many bytes come in each block but the last; see `compression.STEP` for why so many,
and `compress.OUTPUT` for why no fewer."""

# A Go node hashes what its extraction takes of the archive. Its inflater gives out this much at
# once, and the tar reader asks for no more after the tar's end. When that is where such a portion
# ends, the last bytes of the gzip stream may be left unread, and the checksum then does not match.
_PORTION = 32 << 10

_LATEST = LATEST * 1_000_000_000
_ZEROS = bytes(STEP)
_SYMLINK_MODE = 0o777
_NO_FILE = (errno.ELOOP, errno.ENXIO)  # what open(2) says of a symlink, and of a socket
_NO_SYMLINK = (errno.EINVAL,)  # what readlink(2) says of all else
_MIB = 1 << 20
_SECTOR = 512  # bytes of a unit of st_blocks, whatever the file system's own: inode(7)
_LARGE_HOLES = 1 << 30


class Members:
    """The members of a part of a tree, and what they were when `blocks` has ended.

    `links`: whether symlinks and hard links go as such, or as copies of the files they stand
    for. `tell` gets a line for whatever is left out or sent otherwise than it was. `packed_bytes`
    are those of file data so far, `counts` the members by kind.
    """

    def __init__(self, part: Part, *, links: bool, tell: Callable[[str], None]) -> None:
        self.packed_bytes = 0
        self.counts = dict.fromkeys(Kind, 0)
        self._links = links
        self._tell = tell
        self._part = part
        self._linked = FirstNames()
        #: A header that changes nothing where it comes again: the root's own.
        self._again = b""
        self._limit = part.limit
        #: A descriptor of the root, while it is read, and the user id of its owner.
        self._root = self._owner = -1
        #: Bytes that the block has room for: read no more, and it need not be cut and copied.
        self._room = STEP

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield the archive in blocks of `STEP` bytes. May be called once.

        Raises StorageError where something cannot be read, or may be another user's file, and
        DiskLimitExceeded for a file that would take it over the limit.
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
                self._room = STEP - size
        if (total + len(END)) % _PORTION == 0:
            self.counts[Kind.DIRECTORY] += 1
            gathered.append(self._again)  # and the end is elsewhere
        yield b"".join((*gathered, END))

    def _pieces(self) -> Generator[bytes, None, None]:
        with (
            opened(self._part.directory) as root,
            closing(SymlinkFollower(root)) as follower,
            closing(walk(root, self._leave_out, self._part.span)) as listings,
        ):
            self._root = root
            for listing in listings:
                if not listing.path:
                    self._owner = listing.stat.st_uid
                if listing.is_first:
                    yield from self._own_header(listing)
                prefix = listing.prefix
                for name in listing.files:
                    yield from self._file(listing.fd, name, prefix + name)
                for name in listing.symlinks:
                    yield from self._symlink(listing, name, prefix + name, follower)
                for name in listing.others:
                    self._other(listing.fd, name, prefix + name)

    def _own_header(self, listing: Listing) -> Iterator[bytes]:
        is_in_part = self._part.span.holds(directory_key(listing.path))
        if not is_in_part and self._again:
            return
        header = self._header(b"/".join(listing.path) or b".", DIRECTORY, listing.stat)
        self._again = self._again or header
        if is_in_part:
            self.counts[Kind.DIRECTORY] += 1
            yield header

    def _file(self, parent: int, leaf: bytes, name: bytes) -> Iterator[bytes]:
        try:
            fd = os.open(leaf, OPEN_FILE, dir_fd=parent)
        except OSError as error:
            self._not_there(name, error, _NO_FILE)
            return
        yield from self._opened(fd, name)

    def _opened(self, fd: int, name: bytes) -> Iterator[bytes]:
        """Yield the member of an open file, and close it."""
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                self._leave_out(name, REPLACED)
                return
            self._check_owner(found, name)
            if (first := self._first_name(found, name)) is not None:
                yield self._hard_link(name, found, first)
            else:
                self._check_size(found, name)
                self.counts[Kind.FILE] += 1
                yield self._header(name, FILE, found, found.st_size)
                yield from self._data(fd, name, found)
        except OSError as error:
            unreadable(name, error)
        finally:
            os.close(fd)

    def _check_owner(self, found: os.stat_result, name: bytes) -> None:
        """Refuse what may be the file of somebody else, to which a hard link was made here.

        Linux allows such links where `fs.protected_hardlinks` is off, proc_sys_fs(5).
        """
        if found.st_nlink > 1 and found.st_uid != self._owner:
            raise StorageError.reading(
                f"{display(name)} belongs to user {found.st_uid}, the server's directory to user "
                f"{self._owner}, and it has {found.st_nlink} names (hard links): it may be a file "
                "from outside the server, and is not sent; if it is the server's, give it to its "
                f"user (chown {self._owner}), else delete it, and transfer the server again"
            )

    def _check_size(self, found: os.stat_result, name: bytes) -> None:
        size, held = found.st_size, found.st_blocks * _SECTOR
        if self._limit is not None and self.packed_bytes + size > self._limit:
            raise DiskLimitExceeded(
                f"with {display(name)}, which has {_mib_above(size)} MiB ({_mib_above(held)} MiB "
                "on this disk), the server's files have "
                f"{_mib_above(self.packed_bytes + size)} MiB, and it may have "
                f"{self._limit // _MIB} MiB; raise its disk limit in the Panel, or delete files, "
                "and transfer it again"
            )
        if size - held >= _LARGE_HOLES:
            self._tell(
                f"{display(name)} is sparse: all of its {_mib_above(size)} MiB are sent, of which "
                f"{_mib_above(held)} MiB are on this disk"
            )

    def _data(self, fd: int, name: bytes, found: os.stat_result) -> Iterator[bytes]:
        left = found.st_size
        while left and (data := os.read(fd, min(left, self._room))):
            left -= len(data)
            self.packed_bytes += len(data)
            yield data
        if left:
            self._tell(
                f"{display(name)} shrank while it was read; {left} zeros end it in its place"
            )
            self.packed_bytes += left
            yield from _zeros(left)
        else:
            self._compare(os.fstat(fd), found, name)
        yield padding(found.st_size)

    def _compare(self, after: os.stat_result, before: os.stat_result, name: bytes) -> None:
        if after.st_size > before.st_size:
            sent = before.st_size
            self._tell(f"{display(name)} grew while it was read; its first {sent} bytes are sent")
        elif (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            self._tell(f"{display(name)} changed while it was read")

    def _symlink(
        self, listing: Listing, leaf: bytes, name: bytes, follower: SymlinkFollower
    ) -> Iterator[bytes]:
        try:
            found = os.stat(leaf, dir_fd=listing.fd, follow_symlinks=False)
            text = os.readlink(leaf, dir_fd=listing.fd)
            if not self._links:
                yield from self._opened(follower.open((*listing.path, leaf), text), name)
                return
        except LeadsNowhere as why:
            self._leave_out(name, str(why))
        except OSError as error:
            self._not_there(name, error, _NO_SYMLINK)
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
            self._not_there(name, error)
        else:
            self._leave_out(name, f"it is {special_name(found.st_mode)}")

    def _first_name(self, found: os.stat_result, name: bytes) -> bytes | None:
        """Return under which name the inode was sent already, if it was and links are sent."""
        if not self._links or found.st_nlink == 1:
            return None
        inode = (found.st_dev, found.st_ino)
        first = self._part.first_names.get(inode)
        if first is None or (first != name and not self._is(first, inode)):
            self._linked.add(inode, name)
            first = self._linked.get(inode)
        return None if first == name else first

    def _is(self, name: bytes, inode: Inode) -> bool:
        """Return whether what was found there before is there still, for another part to send."""
        try:
            found = os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == inode

    def _hard_link(self, name: bytes, found: os.stat_result, first: bytes) -> bytes:
        self.counts[Kind.HARD_LINK] += 1
        mode, mtime = member_mode(found.st_mode)[0], self._time(name, found)
        return member_header(name, HARD_LINK, mode, 0, mtime, link=first)

    def _header(self, name: bytes, typeflag: bytes, found: os.stat_result, size: int = 0) -> bytes:
        mode, stripped = member_mode(found.st_mode)
        if stripped:
            self._tell(f"{display(name)} is sent without its set-user-id or set-group-id bit")
        mtime = self._time(name, found)
        if typeflag == DIRECTORY:
            name += b"/"
        return member_header(name, typeflag, mode, size, mtime)

    def _time(self, name: bytes, found: os.stat_result) -> int:
        mtime = found.st_mtime_ns
        if -_LATEST <= mtime <= _LATEST:
            return mtime
        self._tell(f"{display(name)} is sent with another time: its own is in a far century")
        return _LATEST if mtime > 0 else -_LATEST

    def _not_there(self, name: bytes, error: OSError, replaced: tuple[int, ...] = ()) -> None:
        """Leave out what is not what it was a moment ago; all else is the disk's failure."""
        if gone(error):
            self._leave_out(name, VANISHED)
        elif error.errno in replaced:
            self._leave_out(name, REPLACED)
        else:
            unreadable(name, error)

    def _leave_out(self, name: bytes, why: str) -> None:
        self.counts[Kind.SKIPPED] += 1
        self._tell(f"{display(name)} is left out: {why}")


def _mib_above(size: int) -> int:
    return -(-size // _MIB)


def _zeros(size: int) -> Iterator[bytes]:
    for at in range(0, size, STEP):
        yield _ZEROS[: size - at]
