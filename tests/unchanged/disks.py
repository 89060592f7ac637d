"""File systems to try the rule on: ext4, XFS and btrfs on loop devices, tmpfs and overlay."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["DISKS", "TRUSTED", "Disk", "disk", "missing"]

#: On these the rule holds; on the others all is read.
TRUSTED = ("ext4", "xfs", "btrfs")
DISKS = (*TRUSTED, "tmpfs", "overlay")
_MAKE = {
    "ext4": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
#: Bytes of a disk; the file has holes. A btrfs that is short of space writes pages back soon.
_SIZE = "1G"
_SIZES = {"btrfs": "16G"}


@attrs.frozen
class Disk:
    """A mounted file system."""

    name: str
    directory: Path


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def missing(name: str) -> str:
    """Return what keeps this process from mounting such a disk, empty for nothing."""
    if os.geteuid():
        return "only root mounts file systems"
    if name not in _MAKE:
        return ""
    if not _program(_MAKE[name][0]):
        return f"{_MAKE[name][0]} is missing (package {_PACKAGES[name]})"
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    return f"no loop device can be used: {found.stderr.strip()}" if found.returncode else ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def disk(name: str, place: Path) -> Iterator[Disk]:
    """Mount one below a directory, which should be in memory, and unmount it at the end."""
    mounted = place / name
    mounted.mkdir()
    if name in _MAKE:
        image = place / f"{name}.img"
        _run("truncate", "-s", _SIZES.get(name, _SIZE), str(image))
        program, *options = _MAKE[name]
        _run(_program(program), *options, str(image))
        _run("mount", "-o", "loop", str(image), str(mounted))
    elif name == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(mounted))
    else:
        layers = [place / f"{name}.{each}" for each in ("lower", "upper", "work")]
        for each in layers:
            each.mkdir()
        lower, upper, work = layers
        options = [f"lowerdir={lower},upperdir={upper},workdir={work}"]
        _run("mount", "-t", "overlay", "-o", *options, "overlay", str(mounted))
    try:
        yield Disk(name, mounted)
    finally:
        _run("umount", str(mounted))
