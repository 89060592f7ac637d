"""Extended attributes of files, and POSIX ACLs: read, checked, encoded and written.

Only names that begin with `user.`, and the ACLs, are read or written. Others, such as `security.`
and `trusted.`, are what a node says of its own files. All of one file are one value, `b""` for
none: the names, sorted, each with its value, and a length of 16 bits before either. ACLs in it are
as the kernel has them (acl(5), linux/posix_acl_xattr.h), with entries sorted by kind and number,
and `OWN` for the user and the group that all files of servers have on a node.

Permission bits are set here as well. `process_umask` and `is_own` return which mode and owner a
new file has without that.

Everything is done by descriptors, so no link is followed. Functions raise OSError, and ValueError
with what is wrong for values that are invalid.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from struct import Struct
from tempfile import TemporaryFile

from attrs import frozen

from wingsd.errors import FileTypeRefused
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.util.text import display

MAX_COUNT = 64
"""The most attributes of one file, ACLs included."""

MAX_BYTES = 0xFFFF
"""The most bytes of the value that has all of them."""

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"

ACL_NAMES = (ACCESS, DEFAULT)
"""The attributes that are ACLs; only directories have the second one."""

MOST = 100_000
"""The most files that are counted of which attributes are left out."""

OWN = 0xFFFFFFFE
"""In ACLs, the user and the group that all files of servers have on a node."""

_USER = b"user."
_MAX_NAME = 255
_LENGTH = Struct("<H")
_VERSION = Struct("<I")
_ENTRY = Struct("<HHI")
_ACL_VERSION = 2
_NO_ID = 0xFFFFFFFF
_OWNER, _NAMED_USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NAMED = (_NAMED_USER, _NAMED_GROUP)
_REQUIRED = (_OWNER, _GROUP, _OTHER)
#: The file system, or this file, has no room for them or does not know them; or, with EINVAL, this
#: container has no such user or group as an ACL names.
_NOT_TAKEN = (
    errno.EOPNOTSUPP,
    errno.E2BIG,
    errno.ERANGE,
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
)
_FREE = 1 << 20

_OWN = (OWN, OWN)
_ALL = 7
_LETTERS = (("r", 4), ("w", 2), ("x", 1))
_WORDS = {
    _OWNER: "user",
    _NAMED_USER: "user",
    _GROUP: "group",
    _NAMED_GROUP: "group",
    _MASK: "mask",
    _OTHER: "other",
}
_TAGS = {
    "u": (_OWNER, _NAMED_USER),
    "g": (_GROUP, _NAMED_GROUP),
    "m": (_MASK, 0),
    "o": (_OTHER, 0),
}
_LINE = re.compile(
    r"(?P<tag>u|user|g|group|m|mask|o|other):(?P<name>[^:]*):(?P<bits>[r-][w-][x-])"
    r"(:(?P<number>[^:]*))?"
).fullmatch
_DIGITS = 10

Acl = dict[tuple[int, int], int]
"""Permissions by kind of entry and number of a user or group."""


@frozen
class AttributesKept:
    """The kinds of attributes that a file system or another node keeps."""

    user: bool
    acls: bool

    @property
    def names(self) -> list[str]:
        """Their names between two nodes: `user`, `acl`."""
        return [name for name, kept in (("user", self.user), ("acl", self.acls)) if kept]

    @classmethod
    def named(cls, names: Collection[str]) -> AttributesKept:
        """Return those that have these names."""
        return cls(user="user" in names, acls="acl" in names)


EVERYTHING = AttributesKept(user=True, acls=True)
NOTHING = AttributesKept(user=False, acls=False)


def encode_attributes(attributes: Mapping[bytes, bytes]) -> bytes:
    """Return the value that has all attributes. Raises ValueError beyond the limits."""
    if len(attributes) > MAX_COUNT:
        raise ValueError(f"it has more than {MAX_COUNT} extended attributes")
    parts = []
    for name in sorted(attributes):
        parts += [_text(name), _text(attributes[name])]
    value = b"".join(parts)
    if len(value) > MAX_BYTES:
        raise ValueError(f"its extended attributes have more than {MAX_BYTES} bytes")
    return value


def decode_attributes(value: bytes, *, is_directory: bool) -> dict[bytes, bytes]:
    """Return the attributes of a value that may be anyone's. Raises ValueError."""
    found = dict(attribute_pairs(value))
    for name, text in found.items():
        check_attribute(name, text, is_directory=is_directory)
    if encode_attributes(found) != value:
        raise ValueError("its extended attributes are not sorted, or come twice")
    return found


def check_attribute(name: bytes, text: bytes, *, is_directory: bool) -> None:
    """Check one attribute that may be anyone's. Raises ValueError."""
    if name == ACCESS or (name == DEFAULT and is_directory):
        if not _is_canonical(text):
            raise ValueError("the entries of its ACL are not sorted, or come twice")
    elif not name.startswith(_USER) or not len(_USER) < len(name) <= _MAX_NAME or b"\0" in name:
        raise ValueError("it has an extended attribute with a name that is not allowed")


def kept_attributes(value: bytes, kept: AttributesKept) -> bytes:
    """Return what of a valid value is kept."""
    if not value or (kept.user and kept.acls):
        return value
    return encode_attributes(
        {
            name: text
            for name, text in attribute_pairs(value)
            if (kept.acls if name in ACL_NAMES else kept.user)
        }
    )


def mode_without_mask(mode: int, value: bytes) -> int:
    """Return the permissions that a file has without its ACL.

    With an ACL the mode has the ACL's mask in the place of the group's permissions, which may be
    more than the group has.
    """
    if ACCESS not in value:
        return mode
    acl = dict(attribute_pairs(value)).get(ACCESS)
    if acl is None:
        return mode
    return mode & ~0o070 | (mode & _group_bits(acl))


def read_attributes(fd: int, owner: Owner) -> tuple[bytes, bool]:
    """Return the attributes of an open file or directory, and whether these are all of them.

    Some are left out by the limits. `owner` are the ids of the node's own user and group. ACLs
    come first, then names as sorted.
    """
    try:
        listed = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NOT_TAKEN:
            return b"", error.errno == errno.EOPNOTSUPP
        raise
    if not listed:
        return b"", True
    names = filter(_is_ours, map(os.fsencode, listed))
    found: dict[bytes, bytes] = {}
    left, is_whole = MAX_BYTES, True
    for name in sorted(names, key=lambda name: (name not in ACL_NAMES, name)):
        text = _get(fd, name, owner)
        size = 2 * _LENGTH.size + len(name) + len(text or b"")
        if text is None or size > left or len(found) == MAX_COUNT:
            is_whole = False
            continue
        found[name] = text
        left -= size
    return encode_attributes(found), is_whole


def _get(fd: int, name: bytes, owner: Owner) -> bytes | None:
    """Return one attribute, None where it cannot be read."""
    try:
        text = os.getxattr(fd, name)
        if name not in ACL_NAMES:
            return text
        return acl_from_kernel(text, owner)
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (*_NOT_TAKEN, errno.ENODATA):
            return None
        raise


def supported_attributes(directory: str) -> AttributesKept:
    """Return what the file system of a directory keeps, by a file without a name."""
    acl = {(_OWNER, _NO_ID): _ALL, (_NAMED_USER, 1): 0, (_GROUP, _NO_ID): 0}
    acl |= {(_MASK, _NO_ID): 0, (_OTHER, _NO_ID): 0}
    try:
        with TemporaryFile(dir=directory) as file:
            fd = file.fileno()
            user, acls = _set(fd, b"user.wingsd", b"1"), _set(fd, ACCESS, _packed(acl))
    except OSError:
        return NOTHING
    return AttributesKept(user=user, acls=acls)


class AttributeReader:
    """Reads the attributes of a server's files, as far as `kept`; counts files that have others.

    `owner` are the ids of the node's own user and group. Not for several threads at once.
    """

    def __init__(self, owner: Owner, kept: AttributesKept) -> None:
        self.kept = kept
        self._owner = owner
        #: Files and directories of which some are left out, by device and inode number.
        self._without: set[tuple[int, int]] = set()

    @property
    def without(self) -> int:
        """The number of files and directories of which some are left out, `MOST` at most."""
        return len(self._without)

    def read(self, fd: int, found: os.stat_result, mode: int) -> tuple[bytes, int]:
        """Return the attributes of an open file, and what its `mode` is without an ACL."""
        whole, is_whole = read_attributes(fd, self._owner)
        if not whole and is_whole and not self._without:
            return b"", mode  # of most files
        value = kept_attributes(whole, self.kept)
        inode = (found.st_dev, found.st_ino)
        if is_whole and value == whole:
            if self._without:
                self._without.discard(inode)
        elif len(self._without) < MOST:
            self._without.add(inode)
        return value, mode_without_mask(mode, whole)


def write_attributes(fd: int, value: bytes, mode: int, owner: Owner) -> bool:
    """Give an open file or directory the attributes of a valid value, and the mode `mode`.

    `mode` is that without an ACL. Return False where some could not be kept: the file system has
    no ACLs, for example, or a file may have less bytes of them. It has the other ones then.
    """
    is_whole = True
    pairs = attribute_pairs(value)
    os.fchmod(fd, mode | stat.S_IWUSR)  # those of `user.` need permission to write
    for name, text in pairs:
        if name not in ACL_NAMES:
            is_whole &= _set(fd, name, text)
    os.fchmod(fd, mode)
    for name, text in pairs:
        if name in ACL_NAMES:
            acl = _for_kernel(text, owner)
            is_whole &= _set(fd, name, acl)
    return is_whole


def clear_attributes(fd: int) -> None:
    """Remove all attributes of an open file or directory that `read_attributes` reads.

    Its mode is to be set afterwards: it is writable then, and may have the mask of an ACL.
    """
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NOT_TAKEN:
            return
        raise
    if names:
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_IWUSR)
    for name in filter(_is_ours, map(os.fsencode, names)):
        os.removexattr(fd, name)


def _is_ours(name: bytes) -> bool:
    return name in ACL_NAMES or name.startswith(_USER)


def _set(fd: int, name: bytes, text: bytes) -> bool:
    try:
        os.setxattr(fd, name, text)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = os.fstatvfs(fd)  # ENOSPC also says that one file has too many of them
            if free.f_bavail * free.f_frsize < _FREE:
                raise
        elif error.errno not in _NOT_TAKEN:
            raise
        return False
    return True


def _text(text: bytes) -> bytes:
    if len(text) > MAX_BYTES:
        raise ValueError(f"its extended attributes have more than {MAX_BYTES} bytes")
    return _LENGTH.pack(len(text)) + text


def attribute_pairs(value: bytes) -> list[tuple[bytes, bytes]]:
    """Return the names and values in a value that has all of them. Raises ValueError."""
    texts = list(_texts(value))
    if len(texts) % 2:
        raise ValueError("its extended attributes end in the middle")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _texts(value: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(value):
        start = at + _LENGTH.size
        at = start + int.from_bytes(value[at:start], "little")
        if start > len(value) or at > len(value):
            raise ValueError("its extended attributes end in the middle")
        yield value[start:at]


# ACLs


def _entries(acl: bytes) -> Acl:
    """Return the entries of an ACL as the kernel has it. Raises ValueError for another form."""
    head = _VERSION.size
    if len(acl) > MAX_BYTES:  # of which none are cached, either
        raise ValueError(f"its ACL has more than {MAX_BYTES} bytes")
    if acl[:head] != _VERSION.pack(_ACL_VERSION) or (len(acl) - head) % _ENTRY.size:
        raise ValueError("its ACL is not one of version 2")
    return {(tag, number): bits for tag, bits, number in _ENTRY.iter_unpack(acl[head:])}


def _packed(entries: Acl) -> bytes:
    parts = [_ENTRY.pack(tag, bits, number) for (tag, number), bits in sorted(entries.items())]
    return _VERSION.pack(_ACL_VERSION) + b"".join(parts)


def _checked(entries: Acl) -> Acl:
    """Return entries that make an ACL. Raises ValueError where they do not."""
    tags = [tag for tag, _ in entries]
    if (
        any(tags.count(tag) != 1 for tag in _REQUIRED)
        or any(tag not in _WORDS or bits > _ALL for (tag, _), bits in entries.items())
        or any((number == _NO_ID) is (tag in _NAMED) for tag, number in entries)
        or (_MASK not in tags and any(tag in _NAMED for tag in tags))
    ):
        raise ValueError("its ACL does not have the entries that an ACL has")
    return entries


def _renumbered(entries: Acl, numbers: Owner, others: Owner) -> Acl:
    """Return entries with the user and group `others` in the place of `numbers`.

    Other entries that have the numbers `others` already are left out: there is one of each.
    """
    places = {
        (tag, number): (tag, other)
        for tag, number, other in zip(_NAMED, numbers, others, strict=True)
    }
    taken = set(places.values())
    return {
        places.get(place, place): bits
        for place, bits in entries.items()
        if place in places or place not in taken
    }


@lru_cache(maxsize=32)
def _for_kernel(acl: bytes, owner: Owner) -> bytes:
    return _packed(_renumbered(_entries(acl), _OWN, owner))


def names_own(acl: bytes) -> bool:
    """Return whether an ACL has an entry for the node's own user or group."""
    entries = _entries(acl)
    return any((tag, OWN) in entries for tag in _NAMED)


# Many files have the same ACL.


@lru_cache(maxsize=32)
def _is_canonical(acl: bytes) -> bool:
    return _packed(_checked(_entries(acl))) == acl


@lru_cache(maxsize=32)
def _group_bits(acl: bytes) -> int:
    """Return the permissions that an ACL gives to the group, as they are in a mode."""
    entries = _entries(acl)
    return (entries[_GROUP, _NO_ID] & entries.get((_MASK, _NO_ID), _ALL)) << 3


@lru_cache(maxsize=32)
def acl_from_kernel(acl: bytes, owner: Owner) -> bytes:
    """Return an ACL as the kernel has it, in which `owner` are the ids of a node's own user.

    Raises ValueError for what is no ACL.
    """
    return _packed(_renumbered(_checked(_entries(acl)), owner, _OWN))


def acl_text(acl: bytes, owner: Owner) -> bytes:
    """Return a valid ACL as acl_to_text(3) writes it, with numbers and in one line."""
    shown = []
    for (tag, number), bits in sorted(_renumbered(_entries(acl), _OWN, owner).items()):
        who = str(number) if tag in _NAMED else ""
        letters = "".join(each if bits & bit else "-" for each, bit in _LETTERS)
        shown.append(f"{_WORDS[tag]}:{who}:{letters}")
    return ",".join(shown).encode()


def acl_from_text(text: bytes, owner: Owner) -> bytes | None:
    """Return the ACL of a text, in which `owner` are the ids of the node's own user and group.

    Users and groups have numbers in the place of their names, or behind the permissions (star,
    bsdtar). Return None where one has only a name: on this node it may be anyone's. Raises
    ValueError for what is no ACL.
    """
    entries: Acl = {}
    for line in text.decode("utf-8", "replace").replace("\n", ",").split(","):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        match = _LINE(entry)
        if match is None or (match["name"] and match["tag"][0] in "mo"):
            raise ValueError("its ACL is not one as acl_to_text(3) writes it")
        plain, named = _TAGS[match["tag"][0]]
        place = (plain, _NO_ID)
        if match["name"]:
            number = match["number"] or match["name"]
            if not number.isascii() or not number.isdigit():
                return None
            place = (named, min(int(number[:_DIGITS]), _NO_ID))
        if place in entries:
            raise ValueError("its ACL has an entry twice")
        entries[place] = sum(bit for each, bit in _LETTERS if each in match["bits"])
    return _packed(_renumbered(_checked(entries), owner, _OWN))


def process_umask() -> int:
    """Return the process's umask from /proc: umask(2) would set it.

    With it the sticky bit, which open(2) may drop. All bits where /proc has none, so that every
    mode is set explicitly.
    """
    with suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8) | stat.S_ISVTX
    return 0o7777


def is_own(owner: tuple[int, int], directory: int) -> bool:
    """Return whether new files below a directory have this owner; the descriptor is open."""
    # below a set-group-id directory files get that directory's group instead
    inherits = os.fstat(directory).st_mode & stat.S_ISGID
    return owner == (os.geteuid(), os.getegid()) and not inherits


def set_mode_at(parent: int, name: bytes, mode: int) -> None:
    """Set the permission bits of the entry `name` of the directory `parent`.

    Set-id and sticky bits are left out, as in Wings. Raises OSError, and FileTypeRefused for a
    symlink, a FIFO, a socket or a device.
    """
    with closing_descriptor(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)) as fd:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise FileTypeRefused(f"{display(name)} has no mode of its own")
        # fchmod(2) refuses O_PATH; this name of the descriptor means the very same file.
        os.chmod(f"/proc/self/fd/{fd}", mode & 0o777)
