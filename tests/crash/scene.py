"""A server's directory that is attacked, among others that nothing may touch, with a witness."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.writable_file import OpenFiles

#: The content of files outside, and the targets of symlinks there.
MARK = b"outside"
OUTSIDE_SIZE = 4242
OUTSIDE_MODE = 0o711
_ALL_EVENTS = 0xFFF
_EVENT = struct.Struct("iIII")
_NAMES = {0x1: "read", 0x2: "modified", 0x4: "attributes", 0x20: "opened", 0x100: "created"}

_parse = ServerPath.parse
_FAST = NewFileOptions(durable=False)
_libc = ctypes.CDLL(None, use_errno=True)


class Touched(AssertionError):
    """Something outside of the server's directory was read, changed or seen."""


def check_inside(entry: Entry) -> None:
    """Raise Touched if these are attributes of something outside."""
    if entry.size == OUTSIDE_SIZE or entry.permissions == OUTSIDE_MODE:
        raise Touched(f"its attributes were read: {entry}")


def _read(root: ServerRoot, path: ServerPath, new: str) -> None:
    with root.open_file(path) as file:
        check_inside(file.entry)
        if file.read(100).startswith(MARK):
            raise Touched("its content was read")


def _list(root: ServerRoot, path: ServerPath, new: str) -> None:
    with root.directory(path) as directory:
        for entry in directory.entries():
            if entry.name == b"canary":
                raise Touched("it was listed")
            check_inside(entry)


def _read_link(root: ServerRoot, path: ServerPath, new: str) -> None:
    if root.link_text(path.parent.child(b"l")) == MARK:
        raise Touched("a symlink was read")


def _create(root: ServerRoot, path: ServerPath) -> None:
    with root.writable_file(path, OpenFiles(), mode=0o644) as file:
        file.write_at(0, b"new")


def _write_in_place(root: ServerRoot, path: ServerPath, new: str) -> None:
    with root.writable_file(path, OpenFiles()) as file:
        check_inside(file.stat())
        file.write_at(0, b"new")


Operation = Callable[[ServerRoot, ServerPath, str], object]


def _beside(path: ServerPath, name: str) -> ServerPath:
    return path.joined(f"../{name}")


#: Operations at a path, or at a new name beside it, where a file `own` is; each raises Touched
#: itself if it can.
OPERATIONS: MappingProxyType[str, Operation] = MappingProxyType(
    {
        "stat": lambda root, path, new: check_inside(root.stat(path)),
        "read": _read,
        "list": _list,
        "read link": _read_link,
        "write": lambda root, path, new: root.write(path, [b"new"], _FAST),
        "write durably": lambda root, path, new: root.write(path, [b"new"]),
        "write new": lambda root, path, new: root.write(_beside(path, new), [b"new"], _FAST),
        "create": lambda root, path, new: _create(root, _beside(path, new)),
        "create in a new directory": lambda root, path, new: _create(
            root, _beside(path, f"{new}/deep")
        ),
        "write in place": _write_in_place,
        "copy from": lambda root, path, new: check_inside(root.copy(path, _parse("copy"), _FAST)),
        "copy to": lambda root, path, new: root.copy(_parse("own"), _beside(path, new), _FAST),
        "make directory": lambda root, path, new: check_inside(
            root.make_directory(_beside(path, f"{new}/deep"))
        ),
        "rename from": lambda root, path, new: root.rename(
            path, _parse(f"renamed {new}"), replace=True
        ),
        "rename to": lambda root, path, new: root.rename(_parse("own"), path, replace=True),
        "rename to new": lambda root, path, new: root.rename(_parse("own"), _beside(path, new)),
        "remove": lambda root, path, new: root.remove(path),
        "chmod": lambda root, path, new: root.set_mode(path, 0o700),
        "utimes": lambda root, path, new: root.set_times(path, 1, 1),
    }
)


class Scene:
    """`home` is the server's directory; `close` must be called.

    Whatever a wrongly followed symlink or `..` leads to exists outside as well. Each use of what
    is outside is seen by inotify(7).
    """

    def __init__(self, top: Path) -> None:
        parent = top / "place"
        self.home = parent / "server"
        self.outside = parent / "outside"
        self._top = top
        self._places = [self.outside, parent / "x", top / "x"]
        self.home.mkdir(parents=True)
        for each in self._places:
            _fill(each)
        self._before = self._snapshot()
        self._inotify: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._inotify >= 0
        self._watched = {
            _libc.inotify_add_watch(self._inotify, os.fsencode(each / name), _ALL_EVENTS): (
                each / name
            )
            for each in self._places
            for name in ("", "b")
        }
        assert -1 not in self._watched

    def close(self) -> None:
        """Watch no more."""
        os.close(self._inotify)

    def check(self, what: str) -> None:
        """Raise Touched if anything outside was used since the last check."""
        self.check_events(what)
        if self._snapshot() != self._before:
            raise Touched(f"{what}: something outside was changed")
        self._events()  # of the look itself

    def check_events(self, what: str) -> None:
        """Raise Touched if anything was opened or changed; attributes may have been read."""
        events = self._events()
        if events:
            raise Touched(f"{what}: {events[:5]}")

    def _events(self) -> list[str]:
        found = []
        with suppress(BlockingIOError):
            while data := os.read(self._inotify, 1 << 16):
                at = 0
                while at < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, at)
                    at += _EVENT.size
                    name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                    what = _NAMES.get(mask & 0xFFF, hex(mask))
                    found.append(f"{self._watched[watch] / name}: {what}")
                    at += length
        return found

    @contextmanager
    def attacked(self, seed: int) -> Iterator[Callable[[], None]]:
        """Let another process change the server's directory in this context.

        Yields a function that returns when everything that is swapped is there.
        """
        command = [sys.executable, "-m", "tests.crash.attacker", str(self.home), str(seed)]
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

    def _snapshot(self) -> list[tuple[object, ...]]:
        directories = (self._top, self.outside.parent)
        found: list[tuple[object, ...]] = [
            (each, sorted(os.listdir(each))) for each in directories
        ]
        for place in self._places:
            for path in (place, *sorted(place.rglob("*"))):
                status = path.lstat()
                content = b""
                if stat.S_ISREG(status.st_mode):
                    content = path.read_bytes()
                elif stat.S_ISLNK(status.st_mode):
                    content = os.fsencode(os.readlink(path))
                # All but the time of the last access: this look sets it; inotify sees reading.
                found.append((path, *status[:7], status.st_mtime_ns, status.st_ctime_ns, content))
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
