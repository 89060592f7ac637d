"""Worlds of servers that change in a few places, and programs that keep what they were.

The programs are restic and borg, those of Debian, with their defaults.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from bench.datasets import MIB
from wingsd.history.format import BLOCK

__all__ = [
    "HOT",
    "HOT_SIZE",
    "OTHERS",
    "READ_FILE",
    "WORLDS",
    "Other",
    "ProgramRun",
    "World",
    "on_disk",
]

_GIB = 1 << 30
#: The files that a game writes to all the time, and their bytes; the first is one that is read.
HOT, HOT_SIZE = 16, 8 * MIB
READ_FILE = "hot/0"
#: The part of all bytes that changes, of the files that do, and of the whole that one file has.
_CHANGED, _TOUCHED, _ONE_FILE = 0.01, 0.1, 0.2
#: Of success; of borg and restic where a file was changed while it was read.
_STATUSES = (0, 1, 3)


@frozen
class World:
    """The files of a server: their total size in GiB, and their number."""

    gib: int
    files: int

    @property
    def name(self) -> str:
        """The name of its rows."""
        return f"{self.gib} GiB in {self.files:,} files"

    @property
    def blocks(self) -> int:
        """The blocks that change at a time."""
        return int(self.gib * _GIB * _CHANGED) // BLOCK

    def fill(self, place: Path) -> None:
        """Make the files: bytes that cannot be compressed."""
        (place / "hot").mkdir(parents=True)
        size = int(self.gib * _GIB * _ONE_FILE)
        _write(place / "world.sqlite", size)
        for number in range(HOT):
            _write(place / "hot" / str(number), HOT_SIZE)
        count = self.files - HOT - 1
        each = (self.gib * _GIB - size - HOT * HOT_SIZE) // count
        for number in range(count):
            directory = place / f"region{number // 1000}"
            directory.mkdir(exist_ok=True)
            _write(directory / f"{number}.mca", each)
        os.sync()

    def change(self, place: Path, rng: random.Random) -> int:
        """Write the blocks that change at a time; return how many they are."""
        written = 0
        regions = [*place.glob("region*/*.mca")]
        some = rng.sample(regions, int(self.files * _TOUCHED))
        of_one = int(self.blocks * _ONE_FILE)
        written += _scatter(place / "world.sqlite", of_one, rng)
        written += _scatter(place / READ_FILE, 20, rng)
        left = self.blocks - written
        for number, file in enumerate(some):
            written += _scatter(
                file, (number + 1) * left // len(some) - number * left // len(some), rng
            )
        return written


WORLDS = (World(1, 5_000), World(3, 15_000), World(10, 50_000))
"""Worlds of three sizes."""


def _write(file: Path, size: int) -> None:
    with file.open("wb", buffering=0) as opened:
        while size > 0:
            size -= opened.write(os.urandom(min(size, MIB)))


def _scatter(file: Path, count: int, rng: random.Random) -> int:
    """Write blocks of a file at random; return how many different ones."""
    blocks = file.stat().st_size // BLOCK
    places = rng.sample(range(blocks), min(count, blocks))
    with file.open("r+b", buffering=0) as opened:
        for place in places:
            os.pwrite(opened.fileno(), os.urandom(BLOCK), place * BLOCK)
    return len(places)


# Programs


@frozen
class ProgramRun:
    """A run of a program: seconds and CPU seconds, and when it was."""

    seconds: float
    cpu: float
    span: tuple[float, float]


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> ProgramRun:
    began, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(command, check=False, capture_output=True, env=environment)
    if ran.returncode not in _STATUSES:
        raise SystemExit(f"bench: {command}: {ran.stderr.decode()}")
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ProgramRun(ended - began, cpu, (began, ended))


@frozen
class Other:
    """A program that deduplicates, by its commands; `{...}` are paths and names."""

    name: str
    variables: Mapping[str, str]
    init: Sequence[str]
    make: Sequence[str]
    read: Sequence[str]
    #: Makes the tree what it was, or a new directory `{target}`.
    restore: Sequence[str]
    #: Writes all files as a tar to its output.
    pack: Sequence[str]

    def environment(self, **places: str) -> dict[str, str]:
        """Return the environment of its commands."""
        return {**os.environ, **self.variables, "HOME": places["repository"] + ".home"}

    def run(self, command: Sequence[str], **places: str) -> ProgramRun:
        """Run one of the commands."""
        words = [word.format(**places) for word in command]
        return _timed(words, self.environment(**places))


OTHERS = (
    Other(
        "restic",
        {"RESTIC_PASSWORD": "x"},
        ("restic", "-r", "{repository}", "init"),
        ("restic", "-r", "{repository}", "backup", "--tag", "{name}", "{tree}"),
        (
            "sh",
            "-c",
            "exec restic -r {repository} dump --tag {name} latest {tree}/{file} >{target}",
        ),
        (
            *("restic", "-r", "{repository}", "restore", "--tag", "{name}", "latest:{tree}"),
            *("--target", "{tree}", "--overwrite", "if-changed", "--delete"),
        ),
        ("restic", "-r", "{repository}", "dump", "--tag", "{name}", "latest", "{tree}"),
    ),
    Other(
        "borg",
        {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"},
        ("borg", "init", "-e", "none", "{repository}"),
        ("borg", "create", "{repository}::{name}", "{tree}"),
        ("sh", "-c", "exec borg extract --stdout {repository}::{name} {inside}/{file} >{target}"),
        ("sh", "-c", "mkdir {target}; cd {target} && exec borg extract {repository}::{name}"),
        ("borg", "export-tar", "{repository}::{name}", "-"),
    ),
)


def on_disk(place: Path) -> int:
    """Return the bytes that a directory takes."""
    listed = subprocess.run(
        ["/usr/bin/du", "-s", "--block-size=1", str(place)], check=True, capture_output=True
    )
    return int(listed.stdout.split()[0])
