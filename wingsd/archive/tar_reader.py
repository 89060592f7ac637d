"""Reads the members of a tar archive from blocks of bytes.

Sources of the rules: IEEE Std 1003.1 (pax, "Extended Header" and "ustar Interchange Format"), and
the GNU tar manual's chapters "Basic Tar Format", "GNU Extensions" and "Storing Sparse Files".
Functions of one header raise ValueError with what is wrong; the reader adds where.

The standard library's tarfile does the same and is six times slower on many small files. It
reads ustar, pax extended headers (local and global), GNU long names and links, base-256
numbers, and sparse files in all four formats of GNU tar (old, 0.0, 0.1, 1.0).

A member of type 1 to 6 has no data whatever its size field: GNU tar and bsdtar write none for hard
links, and GNU tar reads none. Data there would be read as the next header and fail its checksum.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from struct import Struct
from zlib import adler32

from wingsd.archive.pipeline import Blocks
from wingsd.archive.tar_headers import ACL_KEYS, ATTRIBUTE, BLOCK, CHECKSUM, LATEST
from wingsd.errors import ArchiveError
from wingsd.filesystem.attributes import (
    ACL_NAMES,
    acl_from_kernel,
    acl_from_text,
    check_attribute,
    encode_attributes,
    mode_without_mask,
)
from wingsd.filesystem.new_file import Owner
from wingsd.util.text import display

MAX_SEGMENTS = 1 << 18
"""The most data segments of one sparse file; their list is kept in memory, 16 bytes each."""

_FIELDS = Struct("100s8s16x12s12s8sc100s8s80x155s12x").unpack_from
_CHECKSUM_AS_SPACES = 8 * 0x20
_LARGEST = (1 << 63) - 1
_DECIMAL = re.compile(rb"[0-9]{1,19}").fullmatch
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch


class Member:
    """One member, from its header block; the reader adds the extended headers before it.

    `name` and `link` are raw bytes, `mtime` is in nanoseconds since the epoch, `size` in bytes
    on disk. `segments` is None, or for a sparse file the offsets and lengths of its data: in
    order, without overlap, within `size`, adding up to the data that is stored. `attributes` is as
    `filesystem.attributes` has it; `has_more` is whether there are others, which are left out.

    Raises ValueError where the block is not a header.
    """

    def __init__(self, block: memoryview) -> None:
        name, mode, size, mtime, checksum, self.typeflag, link, magic, prefix = _FIELDS(block)
        verify_checksum(block, checksum)
        name = name.partition(b"\0")[0]
        # GNU's own format ("ustar  ") keeps times and sparse maps where POSIX has the prefix
        if prefix[0] and magic.startswith(b"ustar\0"):
            name = prefix.partition(b"\0")[0] + b"/" + name
        self.name: bytes = name
        self.link: bytes = link.partition(b"\0")[0]
        self.mode = number(mode, "mode") & 0o7777
        self.size = number(size, "size")
        seconds = _base256(mtime) if mtime[0] & 0x80 else number(mtime, "time")
        if abs(seconds) > LATEST:
            raise ValueError("its time is out of range")
        self.mtime = seconds * 1_000_000_000
        self.segments: array[int] | None = None
        self.attributes = b""
        self.has_more = False


def verify_checksum(block: memoryview, field: bytes) -> None:
    """Verify the header's checksum: the unsigned sum of its bytes, or the signed one of old tars.

    Raises ValueError where it is neither.
    """
    # adler32's low half is one more than the sum of the bytes, and exact for 256 of them; it is
    # some twenty times faster than sum()
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    total += _CHECKSUM_AS_SPACES - sum(field)
    expected = number(field, "checksum")
    if expected != total:
        signed = block.cast("b")
        if expected != sum(signed) - sum(signed[CHECKSUM]) + _CHECKSUM_AS_SPACES:
            raise ValueError("its header's checksum is wrong")


def is_header(block: bytes) -> bool:
    """Return whether `block` is a header or an end-of-archive block: the start of a tar."""
    if len(block) != BLOCK:
        return False
    try:
        verify_checksum(memoryview(block), block[CHECKSUM])
    except ValueError:
        return not any(block)
    return True


def number(field: bytes, what: str) -> int:
    """Return a header's unsigned number: octal text, or GNU's base-256. Blank is 0.

    Raises ValueError, which names the field as `what`, for anything else, for negative numbers
    and for those above 63 bits.
    """
    text = field.strip(b" \0")
    if not text:
        return 0
    if field[0] & 0x80:
        value = _base256(field)
        if not 0 <= value <= _LARGEST:
            raise ValueError(f"its {what} is out of range")
        return value
    if not text.isdigit():  # some writers leave garbage behind the first NUL
        text = text.partition(b"\0")[0].rstrip(b" ")
    try:
        # int() takes more than octal digits: signs, underscores, "0o"
        return int(text if text.isdigit() else b"", 8)
    except ValueError:
        raise ValueError(f"its {what} is not a number") from None


def _base256(field: bytes) -> int:
    """Two's complement in all bits but the first, which marks the form (GNU tar manual)."""
    value = int.from_bytes(field, "big") - (1 << len(field) * 8 - 1)
    return value - (1 << len(field) * 8 - 1) if field[0] & 0x40 else value


def pax_time(text: bytes) -> int:
    """Return a pax time ("1700000000.123456789") in nanoseconds, exact, rounded down.

    Raises ValueError for anything else and for times beyond 64 bits of nanoseconds.
    """
    match = _TIME(text)
    if match is None:
        raise ValueError("its time is not a number")
    sign, seconds, fraction = match[1], int(match[2]), match[3] or b""
    if seconds > LATEST:
        raise ValueError("its time is out of range")
    nanoseconds = seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    if not sign:
        return nanoseconds
    return -nanoseconds - bool(fraction[9:].strip(b"0"))


def pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records ("LENGTH KEY=VALUE", newline) of a pax extended header, in order.

    Raises ValueError where a record is not of this form.
    """
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 20)
        length = payload[at:space] if space > at else b""
        end = at + int(length) if _DECIMAL(length) else 0
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if (
            not space < end <= len(payload)
            or payload[end - 1 : end] != b"\n"
            or not equals
            or not key
        ):
            raise ValueError("its pax header is malformed")
        yield key, value
        at = end


def sparse_number(text: bytes) -> int:
    """Return a decimal number of a pax header or a sparse map; ValueError for others."""
    if not _DECIMAL(text) or int(text) > _LARGEST:
        raise ValueError("a number in its pax header is wrong")
    return int(text)


def old_sparse_pairs(fields: memoryview) -> Iterator[int]:
    """Yield offsets and lengths of GNU's old sparse format, up to the first unused entry."""
    for at in range(0, len(fields), 24):
        if not fields[at + 12]:
            return
        yield number(bytes(fields[at : at + 12]), "sparse map")
        yield number(bytes(fields[at + 12 : at + 24]), "sparse map")


def verify_segments(segments: array[int], size: int, stored: int) -> None:
    """Verify a sparse map against the file's size and the bytes stored for it.

    Raises ValueError unless the segments are in order, do not overlap, are within `size` and add
    up to `stored`.
    """
    if len(segments) % 2:
        raise ValueError("its sparse map has an offset without a length")
    end = total = 0
    for offset, length in zip(segments[::2], segments[1::2], strict=True):
        if offset < end:
            raise ValueError("its sparse map overlaps or is out of order")
        end = offset + length
        total += length
    if end > size or total != stored:
        raise ValueError("its sparse map does not fit its size")


KEYS = (b"path", b"linkpath", b"size", b"mtime")
"""The pax keys used that may be in global headers as well."""

_SPARSE = b"GNU.sparse."
_USER = b"user."
#: Where in a header the ids are that its pax records may have in place of it.
_IDS = {b"uid": slice(108, 116), b"gid": slice(116, 124)}
_ID_DIGITS = 10


class Extension:
    """The contents of the extended headers before one member."""

    def __init__(self) -> None:
        self.name = b""
        self.link = b""
        self.records: dict[bytes, bytes] = {}
        self.sparse: dict[bytes, bytes] = {}
        self.segments = array("q")
        #: Extended attributes and, as text, ACLs, by their names; the owner's ids, by their keys.
        self.attributes: dict[bytes, bytes] = {}
        self.acls: dict[bytes, bytes] = {}
        self.ids: dict[bytes, bytes] = {}

    def is_empty(self) -> bool:
        """Return whether nothing needs a member to follow."""
        return not (self.name or self.link or self.records or self.sparse)

    def read(self, payload: bytes) -> None:
        """Read a pax header; only the keys that are used are kept."""
        for key, value in pax_records(payload):
            if key in KEYS:
                self.records[key] = value
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self.segments.append(sparse_number(value))
            elif key == b"GNU.sparse.map":
                # format 0.1: "offset,length,offset,length"
                self.segments = array("q", map(sparse_number, value.split(b",") if value else ()))
            elif key.startswith(_SPARSE):
                self.sparse[key.removeprefix(_SPARSE)] = value
            elif key in ACL_KEYS:
                self.acls[ACL_KEYS[key]] = value
            elif key.startswith(ATTRIBUTE):
                name = key.removeprefix(ATTRIBUTE)
                self.attributes[name.replace(b"%3D", b"=").replace(b"%25", b"%")] = value
            elif key in _IDS:
                self.ids[key] = value

    def apply(self, member: Member, defaults: dict[bytes, bytes]) -> int:
        """Complete `member`, local records before global ones; return the size as stored.

        An empty value removes a global one (POSIX pax, "Extended Header").
        """
        records = {**defaults, **self.records}
        member.name = self.sparse.get(b"name") or records.get(b"path") or self.name or member.name
        member.link = records.get(b"linkpath") or self.link or member.link
        if mtime := records.get(b"mtime"):
            member.mtime = pax_time(mtime)
        if size := records.get(b"size"):
            member.size = sparse_number(size)
        return member.size


MAX_EXTENSION = 1 << 20
"""The most bytes of one member's extended headers and long names, which are kept in memory."""

MAX_EXTENSIONS = 64
"""The most extended headers and long names of one member."""

MAX_TRAILING = 64 << 20
"""The most bytes after the end of the archive. GNU tar pads to whole records, by default of 10
KiB; compressed zeros could otherwise keep the reader busy for days."""

_OLD_SEGMENTS = 21  # in one block of GNU's old sparse format
_ZEROS = bytes(BLOCK)
_WITHOUT_DATA = b"123456"
_FILES = b"\x0007"
_FILES_AND_SPARSE = b"\x0007S"
_DIRECTORIES = b"5D"
_EXTENSIONS = b"xgLK"
_EXTENSION_FLAGS = (b"x", b"g", b"L", b"K")


class TarReader:
    """Reads the members of a plain tar, one after the other.

    After `next_member` its data may be read by `data`, all of it or none.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._stored = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self._name = b""

    def next_member(self) -> Member | None:
        """Return the next member, or None at the archive's end.

        Raises ArchiveError where the archive is damaged or ends too early.
        """
        try:
            self._blocks.skip(self._stored + self._padding)
            self._stored = self._padding = 0
            return self._member()
        except EOFError:
            raise self._cut_short() from None
        except ValueError as error:
            raise ArchiveError(f"the archive is damaged {self._where()}: {error}") from error

    def data(self) -> Iterable[memoryview]:
        """Return the stored data of the current member, in pieces, mostly not copied.

        Raises ArchiveError, while iterated, where the archive ends too early.
        """
        size, self._stored = self._stored, 0
        if not size:
            return ()
        whole = self._blocks.ready(size)
        return self._pieces(size) if whole is None else (whole,)

    def drain(self) -> None:
        """Read and ignore what follows the end of the archive.

        Raises ArchiveError beyond `MAX_TRAILING` bytes.
        """
        left = MAX_TRAILING
        for block in self._blocks.rest():
            left -= len(block)
            if left < 0:
                raise ArchiveError(
                    f"more than {MAX_TRAILING >> 20} MiB follow the end of the archive; "
                    "send it without them"
                )

    def _pieces(self, size: int) -> Iterable[memoryview]:
        try:
            yield from self._blocks.pieces(size)
        except EOFError:
            raise self._cut_short() from None

    def _member(self) -> Member | None:
        block = self._blocks.take(BLOCK)
        if not block[0] and block == _ZEROS:
            self._end()
            return None
        header = Member(block)
        if header.typeflag not in _EXTENSIONS:
            extension = None
        else:
            extension, block = self._extension(header)
            if block == _ZEROS and extension.is_empty():
                self._end()
                return None
            header = Member(block)
        self._name = header.name
        return self._complete(header, extension, block)

    def _complete(self, member: Member, extension: Extension | None, block: memoryview) -> Member:
        """Complete a member from its extended headers, and find the size stored."""
        stored = member.size
        if extension is not None or self._globals:
            extension = extension or Extension()
            stored = extension.apply(member, self._globals)
            self._name = member.name
        if member.typeflag in _WITHOUT_DATA:
            stored = member.size = 0
        self._stored = stored
        self._padding = -stored % BLOCK
        if extension is not None and (extension.attributes or extension.acls):
            _set_attributes(member, extension, block)
        if member.typeflag == b"S":
            self._old_sparse(member, block)
        elif extension is not None and member.typeflag in _FILES:
            self._pax_sparse(member, extension)
        if member.segments is not None:
            verify_segments(member.segments, member.size, self._stored)
        return member

    def _extension(self, header: Member) -> tuple[Extension, memoryview]:
        """Read the extended headers of the next member; return them and the member's block."""
        extension = Extension()
        left = MAX_EXTENSION
        for _ in range(MAX_EXTENSIONS):
            left -= header.size
            payload = self._payload(header, left)
            if header.typeflag == b"L":
                extension.name = payload.rstrip(b"\0")
            elif header.typeflag == b"K":
                extension.link = payload.rstrip(b"\0")
            elif header.typeflag == b"x":
                extension.read(payload)
            else:
                self._globals.update(r for r in pax_records(payload) if r[0] in KEYS)
            block = self._blocks.take(BLOCK)
            if block[156:157] not in _EXTENSION_FLAGS:
                return extension, block
            header = Member(block)
        raise ValueError(f"it has more than {MAX_EXTENSIONS} extended headers")

    def _payload(self, header: Member, left: int) -> bytes:
        self._name = header.name
        if left < 0:
            raise ValueError(f"its extended headers are longer than {MAX_EXTENSION} bytes")
        payload = bytes(self._blocks.take(header.size))
        self._blocks.skip(-header.size % BLOCK)
        return payload

    def _end(self) -> None:
        """Read the end of the archive: two zero blocks, or as GNU tar accepts it, a single one.

        Other data after one zero block is an error, unlike in GNU tar: it may be members, and not
        extracting them must not look like success.
        """
        if not self._blocks.at_end() and self._blocks.take(BLOCK) != _ZEROS:
            raise ValueError("a block of zeros is followed by something else")

    def _old_sparse(self, member: Member, block: memoryview) -> None:
        """GNU tar manual, "Old GNU Format": four segments in the header, more in blocks after."""
        segments = array("q", old_sparse_pairs(block[386:482]))
        member.size = number(bytes(block[483:495]), "real size")
        more = block[482]
        left = MAX_SEGMENTS // _OLD_SEGMENTS
        while more:
            left -= 1
            if left < 0:
                raise ValueError(f"it has more than {MAX_SEGMENTS} sparse segments")
            block = self._blocks.take(BLOCK)
            segments.extend(old_sparse_pairs(block[:504]))
            more = block[504]
        member.segments = segments

    def _pax_sparse(self, member: Member, extension: Extension) -> None:
        """GNU tar manual, "PAX Format, Versions 0.0, 0.1 and 1.0"."""
        sparse = extension.sparse
        if b"major" in sparse:
            if (sparse[b"major"], sparse.get(b"minor")) != (b"1", b"0"):
                raise ValueError("its sparse format is unknown")
            member.size = sparse_number(sparse.get(b"realsize", b""))
            member.segments = self._map_in_data()
        elif b"size" in sparse:
            member.size = sparse_number(sparse[b"size"])
            member.segments = extension.segments

    def _map_in_data(self) -> array[int]:
        """Read the map that precedes the data in sparse format 1.0: lines of decimal numbers."""
        numbers = self._map_numbers()
        count = next(numbers)
        if count > MAX_SEGMENTS:
            raise ValueError(f"it has more than {MAX_SEGMENTS} sparse segments")
        return array("q", islice(numbers, 2 * count))

    def _map_numbers(self) -> Iterator[int]:
        rest = b""
        while self._stored >= BLOCK:
            self._stored -= BLOCK
            *lines, rest = (rest + self._blocks.take(BLOCK)).split(b"\n")
            yield from map(sparse_number, lines)
            if len(rest) > BLOCK:
                break
        raise ValueError("its sparse map does not end")

    def _where(self) -> str:
        return f"at {display(self._name)}" if self._name else "at its beginning"

    def _cut_short(self) -> ArchiveError:
        return ArchiveError(
            f"the archive ends in the middle, {self._where()}; it was cut short, send it again"
        )


def _set_attributes(member: Member, extension: Extension, block: memoryview) -> None:
    """Give a file or directory the attributes in its headers that it may have."""
    is_directory = member.typeflag in _DIRECTORIES or member.name.endswith(b"/")
    if not is_directory and member.typeflag not in _FILES_AND_SPARSE:
        return
    given = extension.attributes
    # GNU tar writes an empty one for a directory that has the other one only.
    acls = {name: text for name, text in extension.acls.items() if text}
    found = {name: each for name, each in given.items() if name.startswith(_USER)}
    for name in ACL_NAMES:
        acl, owner = None, _owner(extension, block)
        if name in given:  # GNU tar writes both, and names alone in the text
            acl = acl_from_kernel(given[name], owner)
        elif name in acls:
            acl = acl_from_text(acls[name], owner)
        if acl is not None:
            found[name] = acl
    for name, value in found.items():
        check_attribute(name, value, is_directory=is_directory)
    member.attributes = encode_attributes(found)
    member.mode = mode_without_mask(member.mode, member.attributes)
    member.has_more = found.keys() != {*given, *acls}


def _owner(extension: Extension, block: memoryview) -> Owner:
    """Return the ids of the user and group to whom a member belongs; -1 where it has none."""
    user, group = (_id(extension.ids.get(key), block[at], key) for key, at in _IDS.items())
    return user, group


def _id(record: bytes | None, field: memoryview, key: bytes) -> int:
    if record:
        # Of any form, as only ACLs need it: a negative one, for example, is that of no user.
        return int(record) if record.isdigit() and len(record) <= _ID_DIGITS else -1
    return number(bytes(field), key.decode()) or -1
