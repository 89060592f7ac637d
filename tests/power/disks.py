"""Disks with a file system of their own, to be mounted by root: as they are, or with a log."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["FILE_SYSTEMS", "copy_sparse", "make_disk", "mounted", "recorded"]

_MIB = 1 << 20
#: How each file system is made, and on how many MiB: the least that it takes.
FILE_SYSTEMS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ext4": (64, ("/sbin/mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0")),
    "xfs": (300, ("/sbin/mkfs.xfs", "-q", "-K")),
    "btrfs": (128, ("/sbin/mkfs.btrfs", "-q", "-K", "-m", "single")),
}
_UMOUNTED_WITHIN = 60


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)} (as root): {done.stderr.strip()}")
    return done.stdout.strip()


def make_disk(path: Path, file_system: str) -> None:
    """Make a file with an empty file system."""
    size, command = FILE_SYSTEMS[file_system]
    with path.open("xb") as file:
        file.truncate(size * _MIB)
    _run(*command, str(path))


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a disk; holes stay such."""
    with source.open("rb") as file, target.open("xb") as made:
        size = os.fstat(file.fileno()).st_size
        made.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole follows
                return
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            file.seek(at)
            made.seek(at)
            while at < end:
                data = file.read(min(end - at, _MIB))
                made.write(data)
                at += len(data)


def _unmount(place: Path) -> None:
    gc.collect()  # the file of a tree is closed with the tree
    try:
        _run("/bin/umount", str(place))
    except OSError:  # of a test that has failed, which a traceback may hold
        _run("/bin/umount", "--lazy", str(place))


@contextmanager
def mounted(path: Path, place: Path, *, direct: bool = False) -> Iterator[Path]:
    """Mount a disk within the `with` statement; with `direct` past the page cache of its file."""
    place.mkdir(exist_ok=True)
    with ExitStack() as cleanup:
        options = ["--direct-io=on"] if direct else []
        device = _run("/sbin/losetup", "--find", "--show", *options, str(path))
        cleanup.callback(_run, "/sbin/losetup", "--detach", device)
        # No barriers are to be left out, whatever the machine's defaults are.
        _run("/bin/mount", device, str(place))
        cleanup.callback(_unmount, place)
        yield place


@contextmanager
def recorded(path: Path, log: Path, directory: Path) -> Iterator[Path]:
    """Mount a disk whose writes and flushes are noted in `log`, within the `with` statement.

    `directory` is for what that needs.
    """
    if shutil.which("mount", path="/bin") is None or not os.path.exists("/dev/fuse"):
        raise OSError("/dev/fuse is not there: this needs a kernel with FUSE, and root")
    between = directory / "fuse"
    between.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.power.fuse_disk", str(path), str(log), str(between)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise OSError("the disk with a log cannot be mounted: this needs root")
        try:
            with mounted(between / "disk", directory / "recorded", direct=True) as place:
                yield place
        finally:
            _unmount(between)
        server.wait(_UMOUNTED_WITHIN)
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
