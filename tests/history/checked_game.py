"""A game whose files say whether they are whole: pages with digests, and a database that counts.

Run as a program it plays in a directory until it is killed. A region is a file with two pages
more than it has content: the first has the number of the change that was begun last, the last one
that of the change that has ended. Pages are written in place and in any order, by write(2) or a
mapping. `faults` returns what is wrong with a copy of its files.
"""

from __future__ import annotations

import mmap
import os
import random
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from struct import Struct

__all__ = ["counted", "faults", "play"]

PAGE = 4096
REGIONS, PAGES = 6, 64
_HEAD = Struct("<IIQ")


def _page(number: int, change: int, rng: random.Random) -> bytes:
    body = _HEAD.pack(0, number, change)[4:] + rng.randbytes(PAGE - _HEAD.size)
    return zlib.crc32(body).to_bytes(4, "little") + body


def play(root: Path, seed: int) -> None:
    """Change files until this process is killed; print each count that is on the disk."""
    rng = random.Random(seed)
    database = sqlite3.connect(root / "players.sqlite", isolation_level=None)
    database.execute("pragma journal_mode = " + rng.choice(("wal", "delete")))
    database.execute("create table if not exists counts (name text primary key, number integer)")
    database.execute("create table if not exists log (number integer, note blob)")
    database.execute("insert or ignore into counts values ('n', 0)")
    while True:
        _change(root / f"r.{rng.randrange(REGIONS)}.mca", rng)
        database.execute("begin immediate")
        database.execute("update counts set number = number + 1")
        (number,) = database.execute("select number from counts").fetchone()
        database.execute("insert into log values (?, ?)", (number, rng.randbytes(3000)))
        database.execute("delete from log where number < ?", (number - 200,))
        database.execute("commit")
        print(number, flush=True)


def _change(path: Path, rng: random.Random) -> None:
    count = PAGES + 2
    if not path.exists():
        new = path.with_suffix(".new")
        new.write_bytes(b"".join(_page(number, 0, rng) for number in range(count)))
        new.rename(path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        change = _HEAD.unpack_from(mapping)[2] + 1
        numbers = [0, *rng.sample(range(1, count - 1), rng.randrange(1, 20)), count - 1]
        is_mapped = rng.random() < 0.3
        for number in numbers:
            page = _page(number, change, rng)
            if is_mapped:
                mapping[number * PAGE : (number + 1) * PAGE] = page
            else:
                os.pwrite(file.fileno(), page, number * PAGE)


def faults(root: Path) -> Iterator[str]:
    """Yield what is wrong with the regions in a copy, each for itself."""
    for path in sorted(root.glob("*.mca")):
        data = path.read_bytes()
        heads = []
        for number in range(len(data) // PAGE):
            page = data[number * PAGE : (number + 1) * PAGE]
            crc, found, change = _HEAD.unpack_from(page)
            if crc != zlib.crc32(page[4:]) or found != number:
                yield f"page {number} of {path.name} is torn"
            heads.append(change)
        if len(heads) != PAGES + 2:
            yield f"{path.name} has {len(heads)} pages"
        elif max(heads) != heads[0] or heads[0] - heads[-1] not in (0, 1):
            yield f"{path.name} is of no moment: {heads}"


def counted(root: Path) -> int:
    """Return the count of the database in a copy, whose pages are whole."""
    with closing(sqlite3.connect(root / "players.sqlite")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        (number,) = database.execute("select number from counts").fetchone()
        (last,) = database.execute("select coalesce(max(number), 0) from log").fetchone()
        assert number == last
        return int(number)


if __name__ == "__main__":
    play(Path(sys.argv[1]), int(sys.argv[2]))
