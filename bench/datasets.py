"""The datasets: server trees with the same bytes every time, and their archives."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen
from isal import isal_zlib

__all__ = ["BUSY", "DATASETS", "SERVERS", "Dataset", "dataset", "of_bytes", "of_files"]

#: Version of the trees: raise it with a change, and they are created again.
_EDITION = 1
_MTIME = 1_700_000_000
_MTIME_SPAN = 10_000_000
MIB = 1 << 20

_TALK = (
    "server tick player world chunk loaded saved joined left the game advancement made stone "
    "diamond creeper zombie overworld nether end region entity block update thread worker main "
    "INFO WARN ERROR net minecraft server plugin enabled disabled async scheduler task timing "
    "memory allocated free garbage collector pause seconds connection lost timed out keepalive "
    "packet decoder exception handler"
)
_WORDS = _TALK.split()


@frozen
class Dataset:
    """A tree (None where only its archive is wanted) and its tar.gz; `size` in bytes of files."""

    name: str
    archive: Path
    sha256: str
    size: int
    files: int
    tree: Path | None = None

    def warm(self) -> None:
        """Read the archive and the tree into the page cache."""
        for path in [self.archive, *(self.tree.rglob("*") if self.tree else [])]:
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(MIB):
                        pass


def dataset(name: str, directory: Path) -> Dataset:
    """Return one of `DATASETS`, or "server", "many" or "servers", created if need be.

    It is below `directory`; of the latter two there is no archive.
    """
    place = directory / f"{name}-{_EDITION}"
    tree, archive = place / "tree", place / "archive.tar.gz"
    is_packed = name not in ("many", "servers")
    complete = archive if is_packed else place / "complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        tree.mkdir(parents=True)
        _TREES[name](tree)
        _stamp(tree)
        if is_packed:
            _pack(tree, archive)
        else:
            complete.touch()
    found = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in found)
    digest = _sha256(archive) if is_packed else ""
    return Dataset(name, archive, digest, size, len(found), tree)


def of_bytes(size: int, directory: Path) -> Dataset:
    """Return an archive of files of up to 64 MiB, `size` bytes in all, a third compressible."""
    count = max(1, size // (64 * MIB))
    rng = random.Random("bytes")
    pool = rng.randbytes(4 * MIB)
    each = (_chunks(rng, pool, size // count) for _ in range(count))
    members = ((f"world/r.{i}.mca", size // count, blocks) for i, blocks in enumerate(each))
    return _archived(f"{size}-bytes", size, count, directory, members)


def of_files(count: int, directory: Path) -> Dataset:
    """Return an archive of `count` files of 512 bytes."""
    rng = random.Random("files")
    members = (
        (f"d{i % 100:02d}/f{i:06d}.dat", 512, iter([rng.randbytes(256) + bytes(256)]))
        for i in range(count)
    )
    return _archived(f"{count}-files", count * 512, count, directory, members)


def _archived(
    name: str,
    size: int,
    count: int,
    directory: Path,
    members: Iterator[tuple[str, int, Iterator[bytes]]],
) -> Dataset:
    """Write an archive without a tree on the disk."""
    path = directory / f"{name}-{_EDITION}.tar.gz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            pack = isal_zlib.compressobj(1, wbits=31)
            for block in _tar(members):
                file.write(pack.compress(block))
            file.write(pack.flush())
        part.rename(path)
    return Dataset(name, path, _sha256(path), size, count)


def _tar(members: Iterator[tuple[str, int, Iterator[bytes]]]) -> Iterator[bytes]:
    for name, size, blocks in members:
        head = tarfile.TarInfo(name)
        head.size, head.mtime, head.mode = size, _MTIME, 0o644
        yield head.tobuf()
        yield from blocks
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(tarfile.RECORDSIZE)


def _chunks(rng: random.Random, pool: bytes, size: int) -> Iterator[bytes]:
    """Incompressible and compressible data in turns."""
    while size > 0:
        start, length = rng.randrange(len(pool) // 2), rng.randrange(200, 20_000)
        text = b"%d minecraft:stone " % rng.randrange(10_000) * rng.randrange(1, 400)
        block = (pool[start : start + length] + text)[:size]
        size -= len(block)
        yield block


# The trees of the reference


def _big(tree: Path) -> None:
    """16 files of 128 MiB that do not compress, as region files packed by the game do not."""
    for i in range(16):
        rng = random.Random(f"d1-{i}")
        path = tree / f"world/region/r.{i % 4}.{i // 4}.mca"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for _ in range(128):
                file.write(rng.randbytes(MIB))


def _mixed(tree: Path) -> None:
    """A game server: 300 region files, jars, 300 MiB of logs, 3,000 small files, links."""
    rng, pool = random.Random("d2"), _lines("d2pool", 4 * MIB)
    for i in range(300):
        where = ("world", "world_nether/DIM-1", "world_the_end/DIM1")[i % 3]
        path = tree / where / f"region/r.{i // 3 - 50}.{i % 7}.mca"
        _write(path, _region(rng, rng.randint(2 * MIB, 6 * MIB), pool))
    for i in range(20):
        _write(tree / (f"plugins/plugin{i:02d}.jar" if i else "server.jar"), _jar(rng, i, pool))
    for i in range(60):
        path = tree / f"logs/2023-11-{i % 30 + 1:02d}-{i // 30 + 1}.log"
        _write(path, _log(rng, 5 * MIB, pool))
    for i in range(3000):
        extension, content = _setting(rng, i)
        place = tree / f"plugins/cfg{i % 40:02d}/{rng.choice(_WORDS)}/{i // 40}"
        _write(place / f"f{i}.{extension}", content, 0o644 if i % 97 else 0o600)
    _write(tree / "start.sh", b"#!/bin/sh\nexec java -jar server.jar\n", 0o755)
    for name in ("world/datapacks", "cache/empty", "crash-reports"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "logs/latest.log").symlink_to("2023-11-01-1.log")
    (tree / "plugins/core.jar").symlink_to("../server.jar")
    (tree / "main_world").symlink_to("world")


def _small(tree: Path) -> None:
    """50,000 files of 0.2 to 8 KiB."""
    rng, pool = random.Random("d3"), _lines("d3pool", MIB)
    for i in range(50_000):
        size, start = rng.randint(200, 8192), rng.randrange(len(pool) - 200)
        text = "\n".join(pool[start : start + 200]).encode()[:size]
        if i % 2:
            entry = {"id": i, "k": f"{rng.getrandbits(64):x}", "t": text.decode()}
            text = json.dumps(entry)[:size].encode()
        name = f"f{i:05d}.{'json' if i % 2 else 'txt'}"
        _write(tree / f"d{i % 25:02d}/s{i // 25 % 40:02d}" / name, text)


def _server(tree: Path) -> None:
    """50,000 files and 2 GiB: those of `small`, and region files of 1 to 256 MiB."""
    _small(tree / "players")
    rng, pool = random.Random("server"), random.Random("server-pool").randbytes(4 * MIB)
    left, number = 2048 * MIB - 200 * MIB, 0
    while left > 0:
        size = min(left, MIB << rng.randrange(9))
        path = tree / f"world/region/r.{number % 8}.{number // 8}.mca"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for block in _chunks(rng, pool, size):
                file.write(block)
        left, number = left - size, number + 1


def _many(tree: Path) -> None:
    """500,000 files of 0.2 to 6.5 KiB, 1.6 GiB in all."""
    rng, pool = random.Random("many"), random.Random("many-pool").randbytes(MIB)
    for i in range(500_000):
        size, start = rng.randint(200, 6_600), rng.randrange(MIB // 2)
        _write(tree / f"d{i % 50:02d}/s{i // 50 % 100:02d}/f{i:06d}.dat", pool[start:][:size])


#: The servers of the dataset "servers", and how many of them come first that write.
SERVERS, BUSY = 40, 8


def _servers(tree: Path) -> None:
    """8 servers of 200 MiB in 10,000 files, 16 of which have 8 MiB; 32 of 20 MiB in 1,000."""
    for number in range(SERVERS):
        rng, place = random.Random(f"servers-{number}"), tree / f"{number:02d}"
        hot, count, left = (16, 10_000, 200 * MIB) if number < BUSY else (0, 1000, 20 * MIB)
        for i in range(hot):
            _write(place / f"hot/{i}", rng.randbytes(8 * MIB))
        size = (left - hot * 8 * MIB) // (count - hot)
        for i in range(count - hot):
            _write(place / f"d{i % 20:02d}/f{i:05d}.dat", rng.randbytes(size))


#: Those of the series that receive, send and move, and those of others.
DATASETS: dict[str, Callable[[Path], None]] = {"big": _big, "mixed": _mixed, "small": _small}
_TREES = {**DATASETS, "server": _server, "many": _many, "servers": _servers}


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def _lines(seed: str, size: int) -> list[str]:
    rng = random.Random(seed)
    lines: list[str] = []
    while size > 0:
        lines.append(" ".join(rng.choices(_WORDS, k=rng.randint(3, 12))))
        size -= len(lines[-1]) + 1
    return lines


def _region(rng: random.Random, target: int, pool: list[str]) -> bytes:
    """Like an Anvil region file: a header of 8 KiB, then zlib chunks padded to 4 KiB."""
    header, size = bytearray(8192), 8192
    chunks: list[bytes] = []
    while size < target and len(chunks) < 1024:
        start = rng.randrange(len(pool) - 40)
        names = "\n".join(pool[start : start + 20]).encode()
        light = bytes(rng.choices(range(16), k=6000))
        raw = b"\x0a\x00\x00" + names + light + rng.randbytes(2500 + rng.randrange(4000))
        packed = zlib.compress(raw + bytes(4096), 6)
        blob = struct.pack(">IB", len(packed) + 1, 2) + packed
        blob += bytes(-len(blob) % 4096)
        index = len(chunks)
        struct.pack_into(">I", header, index * 4, ((size // 4096) << 8) | len(blob) // 4096)
        struct.pack_into(">I", header, 4096 + index * 4, _MTIME + index)
        chunks.append(blob)
        size += len(blob)
    return bytes(header) + b"".join(chunks)


def _jar(rng: random.Random, number: int, pool: list[str]) -> bytes:
    """Classes, half of them text and half noise."""
    buffer, size, entry = io.BytesIO(), 0, 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as jar:
        while size < 10 * MIB:
            start = rng.randrange(len(pool) - 100)
            text = "\n".join(pool[start : start + 60]).encode()
            body = text + rng.randbytes(rng.randint(2000, 12_000))
            info = zipfile.ZipInfo(
                f"com/example/p{number}/C{entry}.class", (2023, 11, 14, 22, 13, 20)
            )
            info.compress_type = zipfile.ZIP_DEFLATED
            jar.writestr(info, body)
            size += len(body) * 7 // 10
            entry += 1
    return buffer.getvalue()


def _log(rng: random.Random, size: int, pool: list[str]) -> bytes:
    lines, clock = [], 0
    while size > 0:
        clock += rng.randrange(5)
        line = pool[rng.randrange(len(pool))]
        now = f"{clock // 3600 % 24:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
        lines.append(f"[{now}] [Server thread/INFO]: {line}")
        size -= len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode()


def _setting(rng: random.Random, number: int) -> tuple[str, bytes]:
    size = rng.randint(200, 6000)
    match number % 3:
        case 0:
            uuid = f"{rng.getrandbits(128):032x}"
            stats = {rng.choice(_WORDS): rng.randrange(10**6) for _ in range(size // 25)}
            return "json", json.dumps({"uuid": uuid, "stats": stats}, indent=1).encode()
        case 1:
            lines = [
                f"{rng.choice(_WORDS)}-{rng.randrange(99)}: {rng.choice(_WORDS)}"
                for _ in range(size // 20)
            ]
            return "yml", "\n".join(lines).encode()
        case _:
            lines = [
                f"{rng.choice(_WORDS)}.{rng.choice(_WORDS)}={rng.randrange(10**4)}"
                for _ in range(size // 20)
            ]
            return "properties", "\n".join(lines).encode()


def _stamp(tree: Path) -> None:
    """Give each file its own time."""
    rng = random.Random("mtime")
    for root, directories, files in os.walk(tree, topdown=False):
        directories.sort()
        for path in [*(os.path.join(root, name) for name in sorted(files)), root]:
            when = _MTIME + rng.randrange(_MTIME_SPAN)
            os.utime(path, (when, when), follow_symlinks=False)


def _pack(tree: Path, archive: Path) -> None:
    names = sorted(os.listdir(tree), key=os.fsencode)
    options = ["--sort=name", "--format=gnu", "-I", "pigz -1 -n -p 2"]
    part = archive.with_suffix(".part")
    command = ["tar", "-C", str(tree), *options, "-cf", str(part), *names]
    subprocess.run(command, check=True)
    part.rename(archive)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
