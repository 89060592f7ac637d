"""A fresh ext4 for each round.

Deletes are never part of a round: ext4 avoids the inodes of what was just deleted, and after a
large tree was removed it makes new files 10 to 25 times slower for minutes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["fresh_disk"]

_SIZE = 48 << 30


@contextmanager
def fresh_disk(directory: Path) -> Iterator[Path]:
    """Mount a new and empty ext4 below `directory`; remove it afterwards. Root only."""
    image, place = directory / "disk.img", directory / "disk"
    place.mkdir(parents=True, exist_ok=True)
    if place.is_mount():
        _run("umount", str(place))  # of a benchmark that was killed
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(_SIZE)
    # Initialize everything now, and not in the background during a measurement.
    _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    # Otherwise everything would be in the page cache twice, and be evicted soon.
    attach = ["losetup", "--direct-io=on", "--find", "--show", str(image)]
    device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    _run("mount", device, str(place))
    _run("losetup", "--detach", device)  # when it is unmounted
    os.sync()
    try:
        yield place
    finally:
        _run("umount", str(place))
        image.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
