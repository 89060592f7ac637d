"""Extracting an archive below a directory: nothing outside may be touched."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.frame
import pyzstd

from fuzz.findings import Finding, pieces
from tests.support.archives import END, header, member, pax
from wingsd.archive.extract import extract
from wingsd.errors import ArchiveError, StorageError

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"ustar\x0000",
    b"ustar  \0",
    b"../",
    b"../outside/canary",
    b"/etc/",
    b"././@LongLink",
    b"PaxHeaders/",
    b"GNU.sparse.major=1\n",
    b"GNU.sparse.minor=0\n",
    b"GNU.sparse.map=0,1,5,2\n",
    b"GNU.sparse.realsize=9\n",
    b"GNU.sparse.name=f\n",
    b"SCHILY.xattr.user.x=y\n",
    b"SCHILY.xattr.trusted.x=y\n",
    b"SCHILY.xattr.system.posix_acl_access=",
    b"SCHILY.acl.access=user::rw-,group::r--,other::---\n",
    b",user:5:rwx,mask::rwx",
    b"19 linkpath=../out\n",
    b"12 size=512\n",
    b"11 path=..\n",
    b"\x80\0\0\0\0\0\0\0\0\0\2\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
]

_ACL = b"user::rw-,user:5:rwx,group::r--,group:0:r-x:0,mask::rwx,other::---"
_BLOCK = 512
_MAGIC = slice(257, 262)
_CHECKSUM = slice(148, 156)
_SECRET = b"nobody may change this"


def one(data: bytes) -> None:
    """Extract `data` after its first byte, which selects how it becomes an archive."""
    if not data:
        return
    archive = _FORMS[data[0] % len(_FORMS)](data[1:])
    with tempfile.TemporaryDirectory(prefix="wingsd-fuzz-", dir=_place()) as top:
        outside, inside = Path(top, "outside"), Path(top, "inside")
        outside.mkdir()
        inside.mkdir()
        canary = outside / "canary"
        canary.write_bytes(_SECRET)
        before = _state(outside, canary)
        try:
            _extract(archive, inside)
            _look_inside(inside)
            if _state(outside, canary) != before or canary.read_bytes() != _SECRET:
                raise Finding("something outside was changed")
            if sorted(os.listdir(top)) != ["inside", "outside"]:
                raise Finding(f"something came to be outside: {os.listdir(top)}")
        finally:
            # Directories without permissions are no obstacle to root, but to others.
            _open_up(inside)
            shutil.rmtree(inside, ignore_errors=True)


def _extract(archive: bytes, inside: Path) -> None:
    notes: list[str] = []
    try:
        done = extract(pieces(archive), str(inside), None, notes.append, threads=False)
    except (ArchiveError, StorageError) as error:
        if not error.detail.isprintable():
            raise Finding(f"this cannot be shown to anybody: {error.detail!r}") from error
        return
    finally:
        if not all(note.isprintable() for note in notes):
            raise Finding(f"these cannot be shown to anybody: {notes}")
    if done.sha256 != hashlib.sha256(archive).hexdigest() or done.archive_bytes != len(archive):
        raise Finding("not all of it was read")


def _state(*paths: Path) -> list[tuple[int, ...]]:
    found = [os.lstat(path) for path in paths]
    return [(s.st_mode, s.st_uid, s.st_nlink, s.st_mtime_ns, s.st_ctime_ns) for s in found]


def _look_inside(inside: Path) -> None:
    for path, _, files in os.walk(os.fsencode(inside)):
        for name in files:
            mode = os.lstat(os.path.join(path, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise Finding(f"{name!r} is neither a file nor a link: {oct(mode)}")
            if not stat.S_ISLNK(mode):
                _look_at_attributes(os.path.join(path, name))
            if mode & (stat.S_ISUID | stat.S_ISGID):
                raise Finding(f"{name!r} has a set-id bit: {oct(mode)}")


def _look_at_attributes(path: bytes) -> None:
    for name in os.listxattr(path):
        if not name.startswith(("user.", "system.posix_acl_")):
            raise Finding(f"{path!r} has the attribute {name!r}")


def _open_up(inside: Path) -> None:
    for path, directories, _ in os.walk(os.fsencode(inside)):
        os.chmod(path, stat.S_IRWXU)
        for name in directories:
            below = os.path.join(path, name)
            if not os.path.islink(below):
                os.chmod(below, stat.S_IRWXU)


def _place() -> str | None:
    # Memory is faster than a disk, and wears none out.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _as_it_is(data: bytes) -> bytes:
    return data


def _mended(data: bytes) -> bytes:
    """Set valid checksums in all headers; random input would have none."""
    blocks = [bytearray(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]
    for block in blocks:
        if block[_MAGIC] == b"ustar" and len(block) == _BLOCK:
            block[_CHECKSUM] = b" " * 8
            block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def _gzipped(data: bytes) -> bytes:
    return gzip.compress(_mended(data), 1, mtime=0)


def _zstd(data: bytes) -> bytes:
    return pyzstd.compress(_mended(data), 1)


def _xz(data: bytes) -> bytes:
    return lzma.compress(_mended(data), preset=0)


def _bzip2(data: bytes) -> bytes:
    return bz2.compress(_mended(data), 1)


def _lz4(data: bytes) -> bytes:
    return bytes(lz4.frame.compress(_mended(data), content_checksum=True))


# Most of what is found is found in mended ones. New ones come last: what is kept goes by numbers.
_FORMS: list[Callable[[bytes], bytes]] = [
    *(_mended, _as_it_is, _gzipped, _zstd, _mended, _mended),
    *(_mended, _as_it_is, _xz, _bzip2, _lz4, _mended),
]


def seeds() -> Iterator[bytes]:
    """Yield small archives with every feature of the reader."""
    tars = [
        member(b"d/", typeflag=b"5", mode=0o755) + member(b"d/f", b"abc", mode=0o4755) + END,
        member(b"l", typeflag=b"2", link=b"../outside") + member(b"l/canary", b"x") + END,
        member(b"f", b"x") + member(b"h", typeflag=b"1", link=b"f") + END,
        pax((b"path", b"n" * 120), (b"mtime", b"1.5")) + member(b"f", b"x") + END,
        pax((b"comment", b"c"), typeflag=b"g") + member(b"f", b"x") + END,
        member(b"././@LongLink", b"n" * 120 + b"\0", b"L") + member(b"f", b"x") + END,
        member(b"././@LongLink", b"f\0", b"K") + member(b"k", typeflag=b"2") + END,
        _old_sparse() + END,
        pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1,8,1"))
        + member(b"s", b"ab")
        + END,
        pax(
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.realsize", b"9"),
        )
        + member(b"s", b"1\n8\n1\n".ljust(_BLOCK, b"\0") + b"x")
        + END,
        pax((b"SCHILY.acl.access", _ACL), (b"SCHILY.xattr.user.a", b"1")) + member(b"f") + END,
        pax((b"SCHILY.acl.default", _ACL)) + member(b"d/", typeflag=b"5", mode=0o755) + END,
        pax((b"SCHILY.xattr.security.a", b"1"), (b"uid", b"9999999")) + member(b"f") + END,
        member(b"fifo", typeflag=b"6") + member(b"dev", typeflag=b"3") + END,
    ]
    skippable = b"\x50\x2a\x4d\x18\1\0\0\0x"
    yield from (b"\0" + tar for tar in tars)
    yield b"\1" + gzip.compress(tars[0], mtime=0)
    yield b"\1" + gzip.compress(tars[0], mtime=0) * 2 + b"\0\0"
    yield b"\1" + pyzstd.compress(tars[0]) + skippable
    yield b"\1" + lzma.compress(tars[0]) * 2 + b"\0\0\0\0"
    yield b"\1" + bz2.compress(tars[0]) * 2 + b"\0"
    yield b"\1" + skippable + lz4.frame.compress(tars[0], content_checksum=True) + skippable
    yield from (bytes([form]) + tars[form % 4] for form in (2, 3, 8, 9, 10))


def _old_sparse() -> bytes:
    pairs = b"".join(b"%011o\0" % number for number in (0, 1, 8, 1))
    raw = [(386, pairs), (483, b"%011o\0" % 9)]
    fields = {"magic": b"ustar  \0", "raw": raw}
    return header(b"s", b"S", 2, **fields) + b"ab".ljust(_BLOCK, b"\0")
