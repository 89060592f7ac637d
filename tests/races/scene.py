"""A server's directory among others that nothing may touch, and who watches these."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MARK", "OUTSIDE_MODE", "OUTSIDE_SIZE", "Scene", "Touched"]

#: What files outside contain, and symlinks there as well.
MARK = b"outside"
OUTSIDE_SIZE = 4242
OUTSIDE_MODE = 0o711
_ALL_EVENTS = 0xFFF
_EVENT = struct.Struct("iIII")
_NAMES = {0x1: "read", 0x2: "modified", 0x4: "attributes", 0x20: "opened", 0x100: "created"}

_libc = ctypes.CDLL(None, use_errno=True)


class Touched(AssertionError):
    """Something outside of the server's directory was read, changed or seen."""


class _Witness:
    """Sees by inotify(7) each use of directories and of what is in them."""

    def __init__(self, directories: list[Path]) -> None:
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0
        self._places = {
            _libc.inotify_add_watch(self._fd, os.fsencode(each), _ALL_EVENTS): each
            for each in directories
        }
        assert -1 not in self._places

    def events(self) -> list[str]:
        """Return what has happened since the last call."""
        found = []
        try:
            while data := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, at)
                    name = os.fsdecode(data[at + _EVENT.size :][:length].rstrip(b"\0"))
                    what = _NAMES.get(mask & 0xFFF, hex(mask))
                    found.append(f"{self._places[watch] / name}: {what}")
                    at += _EVENT.size + length
        except BlockingIOError:
            return found
        return found

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)


class Scene:
    """`home` is the server's directory; `close` must be called.

    Whatever a symlink or a `..` that is followed wrongly leads to exists outside as well.
    """

    def __init__(self, top: Path) -> None:
        place = top / "place"
        self.home = place / "server"
        self.outside = place / "outside"
        self._top = top
        self._places = [self.outside, place / "x", top / "x"]
        self.home.mkdir(parents=True)
        for each in self._places:
            _fill(each)
        self._before = self._snapshot()
        inside = [each / name for each in self._places for name in ("", "b")]
        self._witness = _Witness(inside)

    def check(self, what: str) -> None:
        """Raise Touched if anything outside was used since the last check."""
        self.check_events(what)
        if self._snapshot() != self._before:
            raise Touched(f"{what}: something outside was changed")
        self._witness.events()  # of the look itself

    def check_events(self, what: str) -> None:
        """Raise Touched if anything was opened or changed; attributes may have been read."""
        events = self._witness.events()
        if events:
            raise Touched(f"{what}: {events[:5]}")

    @contextmanager
    def attacked(self, seed: int) -> Iterator[Callable[[], None]]:
        """Have another process change the server's directory in this context.

        Yields a function that returns when everything that is swapped is there.
        """
        command = [sys.executable, "-m", "tests.races.attacker", str(self.home), str(seed)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as attacker:
            to, back = attacker.stdin, attacker.stdout
            assert to is not None
            assert back is not None

            def wait() -> None:
                to.write(b".")
                assert back.read(1) == b"."

            try:
                wait()
                yield wait
            finally:
                to.close()
        assert attacker.returncode == 0

    def close(self) -> None:
        """Watch no more."""
        self._witness.close()

    def _snapshot(self) -> list[tuple[object, ...]]:
        directories = [self._top, self.outside.parent]
        found: list[tuple[object, ...]] = [
            (each, sorted(os.listdir(each))) for each in directories
        ]
        for place in self._places:
            for path in (place, *sorted(place.rglob("*"))):
                status = path.lstat()
                found.append((path, *_attributes(status), _content(path, status)))
        return found


def _fill(place: Path) -> None:
    for directory in (place, place / "b"):
        directory.mkdir()
        for name in ("f", "g", "canary"):
            (directory / name).write_bytes(MARK.ljust(OUTSIDE_SIZE, b"."))
            (directory / name).chmod(0o604)
        (directory / "l").symlink_to(os.fsdecode(MARK))
    for directory in (place / "b", place):
        directory.chmod(OUTSIDE_MODE)


def _attributes(status: os.stat_result) -> tuple[int, ...]:
    # The time of the last access is that of our own look; reading is seen by inotify.
    return (
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _content(path: Path, status: os.stat_result) -> bytes:
    if stat.S_ISREG(status.st_mode):
        return path.read_bytes()
    return os.fsencode(os.readlink(path)) if stat.S_ISLNK(status.st_mode) else b""
