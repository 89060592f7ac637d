"""Disks with a file system of their own, mounted by root: loop devices, tmpfs and overlay."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

MIB = 1 << 20
#: The package of its programs, the MiB of a small disk, and the options with which it is made.
FILE_SYSTEMS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "ext4": ("e2fsprogs", 64, ("-E", "lazy_itable_init=0,lazy_journal_init=0")),
    "xfs": ("xfsprogs", 300, ("-K",)),
    "btrfs": ("btrfs-progs", 128, ("-K", "-m", "single")),
}
#: MiB of a large disk, a file with holes. A btrfs that is short of space writes pages back soon.
_LARGE = {"btrfs": 16 << 10}
_USUAL = 1 << 10


def run(*command: str | Path) -> str:
    """Run a command; return its output. Raises OSError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(map(str, command))
        raise OSError(f"{words} (as root): {done.stderr.strip()}")
    return done.stdout.strip()


def missing(name: str) -> str:
    """Return what keeps this process from mounting such a disk, empty for nothing."""
    if os.geteuid():
        return "only root mounts file systems"
    if name not in FILE_SYSTEMS:
        return ""
    if not _program(name):
        return f"mkfs.{name} is missing (package {FILE_SYSTEMS[name][0]})"
    try:
        run("losetup", "--find")
    except OSError as error:
        return f"no loop device can be used: {error}"
    return ""


def _program(name: str) -> str:
    return shutil.which(f"mkfs.{name}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


def make_disk(path: Path, name: str, size: int = 0) -> None:
    """Make a file with an empty file system: of so many MiB, or a small one."""
    _, least, options = FILE_SYSTEMS[name]
    with path.open("xb") as file:
        file.truncate((size or least) * MIB)
    run(_program(name), "-q", *(() if size else options), path)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a disk; holes stay holes."""
    run("cp", "--sparse=always", source, target)


def unmount(place: Path) -> None:
    gc.collect()  # the file of a tree is closed with the tree
    # A process in a mount namespace of its own may keep the file system: it writes no more then.
    with suppress(OSError):
        run("/bin/mount", "-o", "remount,ro", place)
    try:
        run("/bin/umount", place)
    except OSError:  # of a test that has failed, whose traceback may hold a file
        run("/bin/umount", "--lazy", place)


@contextmanager
def mounted(path: Path, place: Path, *, direct: bool = False) -> Iterator[Path]:
    """Mount a disk within the `with` statement; with `direct` past the page cache of its file."""
    place.mkdir(exist_ok=True)
    with ExitStack() as cleanup:
        options = ["--direct-io=on"] if direct else []
        device = run("/sbin/losetup", "--find", "--show", *options, path)
        cleanup.callback(run, "/sbin/losetup", "--detach", device)
        with path.open("rb") as file:
            is_xfs = file.read(4) == b"XFSB"
        # Such a process may also keep a copy of this file system, which has the same UUID.
        # No option leaves out barriers, whatever the machine's defaults are.
        run("/bin/mount", *(("-o", "nouuid") if is_xfs else ()), device, place)
        cleanup.callback(unmount, place)
        yield place


@contextmanager
def disk(name: str, place: Path) -> Iterator[Path]:
    """Mount a large new one below a directory, which should be in memory."""
    directory = place / name
    if name in FILE_SYSTEMS:
        image = place / f"{name}.img"
        make_disk(image, name, _LARGE.get(name, _USUAL))
        with mounted(image, directory):
            yield directory
        return
    directory.mkdir()
    option = f"size={_USUAL}m"
    if name == "overlay":
        layers = [place / f"{name}.{each}dir" for each in ("lower", "upper", "work")]
        for each in layers:
            each.mkdir()
        option = ",".join(f"{each.suffix[1:]}={each}" for each in layers)
    run("mount", "-t", name, "-o", option, name, directory)
    try:
        yield directory
    finally:
        run("umount", directory)
