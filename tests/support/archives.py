"""Tar archives and directory trees for tests."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ZERO = bytes(512)
END = ZERO * 2
TIME = 1_700_000_000_123_456_789


def in_blocks(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    """Cut data into blocks of `size` bytes."""
    return (data[at : at + size] for at in range(0, len(data), size))


def header(
    name: bytes = b"f", typeflag: bytes = b"0", size: int | bytes = 0, **fields: Any
) -> bytes:
    """Return a ustar header with a right checksum; `raw` overwrites bytes by offset."""
    block = bytearray(512)
    sizes = size if isinstance(size, bytes) else b"%011o" % size
    link: bytes = fields.get("link", b"")
    values: list[tuple[int, bytes]] = [
        (0, name),
        (100, b"%07o" % fields.get("mode", 0o644)),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, sizes),
        (136, fields.get("mtime", b"%011o" % 1_700_000_000)),
        (156, typeflag),
        (157, link),
        (257, fields.get("magic", b"ustar\x0000")),
        (345, fields.get("prefix", b"")),
        *fields.get("raw", ()),
    ]
    for at, value in values:
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    total = fields.get("checksum", sum(block))
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes = b"", typeflag: bytes = b"0", **fields: Any) -> bytes:
    return header(name, typeflag, fields.pop("size", len(data)), **fields) + padded(data)


def pax(*records: tuple[bytes, bytes], typeflag: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", b"".join(pax_record(*r) for r in records), typeflag)


def pax_record(key: bytes, value: bytes) -> bytes:
    """Return one record; its length counts its own digits."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def run(*command: str, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run(command, cwd=cwd, input=data, capture_output=True, check=True)
    return done.stdout


def odd_tree(root: Path) -> None:
    """Make a tree with everything a transfer must carry."""
    for name in ("a", "empty", "private", "sp ace", "deep/" + "d" * 60 + "/" + "e" * 60):
        (root / name).mkdir(parents=True)
    modes = {"plain": 0o644, "exec": 0o755, "secret": 0o600, "ro": 0o444, "group": 0o664}
    for name, mode in modes.items():
        (root / "a" / name).write_bytes(name.encode() * 100)
        (root / "a" / name).chmod(mode)
    (root / "a/nothing").touch()
    (root / "private/f").write_bytes(b"1")
    (root / "private").chmod(0o700)
    (root / "a/big").write_bytes(bytes(range(256)) * 3000)
    (root / "a/link").symlink_to("plain")
    (root / "dirlink").symlink_to("a")
    (root / "broken").symlink_to("nowhere/" + "n" * 150)
    (root / "absolute").symlink_to("/etc/passwd")
    os.link(root / "a/plain", root / "z-hard")
    os.chown(root / "a/exec", 1234, 4321)
    (root / "unicode-é-日本").write_bytes(b"u")
    (root / ("n" * 200)).write_bytes(b"long")
    (root / "deep" / ("d" * 60) / ("e" * 60) / ("f" * 60)).write_bytes(b"deep")
    (root / "sp ace/x y").write_bytes(b"s")
    Path(os.fsdecode(os.fsencode(root) + b"/not-utf8-\xff")).write_bytes(b"b")
    stamp(root)


def stamp(root: Path) -> None:
    """Give every entry a time of its own, with nanoseconds."""
    entries = sorted(os.fsencode(p) for p in root.rglob("*"))
    for n, path in enumerate([*reversed(entries), os.fsencode(root)]):
        time = TIME + n * 1_000_000_007
        os.utime(path, ns=(time, time), follow_symlinks=False)


def sparse_file(path: Path, holes: int = 8) -> None:
    """Write data with holes of a MiB between."""
    with path.open("wb") as file:
        for n in range(holes):
            file.seek((n << 20) + 4096)
            file.write(b"%d" % n * 4096)
        file.truncate((holes << 20) + 12345)


Tree = dict[bytes, tuple[Any, ...]]


def seen(root: Path, *, nanoseconds: bool = True, owner: bool = True) -> Tree:
    """Return everything that is to be the same about a tree."""
    tree: Tree = {}
    inodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    paths = [top, *sorted(os.fsencode(path) for path in root.rglob("*"))]
    for path in paths:
        found = os.lstat(path)
        name = path[len(top) :]
        time = found.st_mtime_ns if nanoseconds else found.st_mtime_ns // 10**9
        ids = (found.st_uid, found.st_gid) if owner else ()
        content: bytes = b""
        if stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        first = inodes.setdefault(found.st_ino, name)
        tree[name] = (oct(found.st_mode), time, content, first, *ids, *_attributes(path))
    return tree


def _attributes(path: bytes) -> list[tuple[str, bytes]]:
    names = os.listxattr(path, follow_symlinks=False)
    return sorted((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def by_tarfile(entries: Sequence[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
