"""A disk with a log of its writes and flushes, and its content after a loss of power.

`python -m tests.crash.recorded_disk IMAGE LOG PLACE` serves a file by FUSE: PLACE/disk, for a loop
device to write to. Writes and flushes are noted in LOG in their order, then done to IMAGE. It
speaks as much of FUSE's protocol as a loop device needs (linux/fuse.h), prints "ready" when it is
mounted, and ends when PLACE is unmounted.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct

from tests.crash.disks import mounted, unmount

_HEAD = Struct("<QI")
#: Bytes that are written at once or not at all: a page. A write of several may be torn.
_PIECE = 4096
_UNMOUNTED_WITHIN = 60
#: How much of what was not flushed is on the disk: nothing, all, or some of it.
SHARES = (0.0, 1.0, 0.5, 0.9)
#: Seconds at most between the disturbances of a disk.
PAUSE = 0.02

_IN = Struct("<IIQQIIIHH")
_OUT = Struct("<IiQ")
_INIT = Struct("<IIIIHHIIHHII24x")
_ATTR = Struct("<QQQQQQIIIIIIIIII")
_ENTRY = Struct("<QQQQII")
_GETATTR = Struct("<QII")
_OPEN = Struct("<QII")
_IO = Struct("<QQIIQII")
_WRITTEN = Struct("<II")

_TOP, _FILE = 1, 2
_NAME = b"disk"
_MAX_WRITE = 1 << 20
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO = 1
_FOREVER = 1 << 30
#: Requests without an answer: forgotten nodes and interrupts.
_UNANSWERED = (2, 36, 42)
_ALLOCATE = 43


def note(log: int, at: int, data: bytes = b"") -> None:
    """Append a write, or a flush, to a log, a descriptor."""
    os.write(log, _HEAD.pack(at, len(data)) + data)


def notes(log: Path) -> Iterator[tuple[int, bytes, int]]:
    """Yield the places and data of writes, and flushes without data; and the positions after each.

    The positions are those in the log.
    """
    end = 0
    with log.open("rb") as file:
        while head := file.read(_HEAD.size):
            at, length = _HEAD.unpack(head)
            end += _HEAD.size + length
            yield at, file.read(length), end


def write_lost(disk: int, log: Path, position: int, share: float, rng: random.Random) -> int:
    """Write to `disk`, as it was before the log, what it has when the power fails at `position`.

    A disk that loses its power has all writes before its last flush. Of the later ones each page
    is there with the probability `share`. Returns how many pages are not.
    """
    open_: list[tuple[int, bytes]] = []
    lost = 0
    for at, data, end in notes(log):
        if end > position:
            break
        if data:
            open_.append((at, data))
            continue
        for place, written in open_:
            os.pwrite(disk, written, place)
        open_.clear()
    for at, data in open_:
        for start in range(0, len(data), _PIECE):
            if rng.random() < share:
                os.pwrite(disk, data[start : start + _PIECE], at + start)
            else:
                lost += 1
    return lost


@contextmanager
def recorded(path: Path, log: Path, directory: Path) -> Iterator[Path]:
    """Mount a disk whose writes and flushes are noted in `log`, within the `with` statement.

    `directory` is for the mounts.
    """
    if shutil.which("mount", path="/bin") is None or not os.path.exists("/dev/fuse"):
        raise OSError("/dev/fuse is missing: this needs a kernel with FUSE, and root")
    between = directory / "fuse"
    between.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.crash.recorded_disk", *map(str, (path, log, between))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise OSError("the disk with a log cannot be mounted: this needs root")
            try:
                with mounted(between / "disk", directory / "recorded", direct=True) as place:
                    yield place
            finally:
                unmount(between)
            server.wait(_UNMOUNTED_WITHIN)
        finally:
            server.kill()


@contextmanager
def disturbed(disk: Path, seed: int) -> Iterator[None]:
    """Act as other programs and the kernel do meanwhile, within the `with` statement.

    A file of another program is flushed, and files in its directory `move` are written to the disk
    at random moments, without a flush.
    """
    stopped = threading.Event()
    rng = random.Random(seed)

    def disturb() -> None:
        with (disk / "other").open("ab", buffering=0) as other:
            while not stopped.wait(rng.uniform(0, PAUSE)):
                if rng.random() < 0.5:
                    other.write(b"a line of another program\n")
                    os.fsync(other.fileno())
                    continue
                paths = [path for path in (disk / "move").rglob("*") if path.is_file()]
                with suppress(OSError):
                    fd = os.open(rng.choice([*paths, disk / "move/ledger"]), os.O_RDONLY)
                    try:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class _Server:
    def __init__(self, image: int, log: int) -> None:
        self._image = image
        self._log = log
        self._size = os.fstat(image).st_size
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _: _GETATTR.pack(_FOREVER, 0, 0) + self._attributes(node),
            14: lambda *_: _OPEN.pack(0, _DIRECT_IO, 0),
            15: self._read,
            16: self._write,
            20: self._flush,
            26: self._init,
        }

    def serve(self, device: int) -> None:
        """Answer requests until the file system is unmounted."""
        while True:
            try:
                request = os.read(device, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, kind, unique, node, *_ = _IN.unpack_from(request)
            if kind in _UNANSWERED:
                continue
            try:
                answer, fault = self._answer(kind, node, request[_IN.size :]), 0
            except OSError as error:
                answer, fault = b"", -(error.errno or errno.EIO)
            os.write(device, _OUT.pack(_OUT.size + len(answer), fault, unique) + answer)

    def _answer(self, kind: int, node: int, body: bytes) -> bytes:
        if kind not in self._handlers:
            # A file system that may not allocate writes the zeros itself.
            raise OSError(errno.EOPNOTSUPP if kind == _ALLOCATE else errno.ENOSYS, "unknown")
        return self._handlers[kind](node, body)

    def _init(self, node: int, body: bytes) -> bytes:
        flags = _BIG_WRITES | _MAX_PAGES
        return _INIT.pack(7, 31, 0, flags, 16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0, 0, 0)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o700 if node == _TOP else stat.S_IFREG | 0o600
        size = 0 if node == _TOP else self._size
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        if node != _TOP or body.rstrip(b"\0") != _NAME:
            raise OSError(errno.ENOENT, "unknown name")
        return _ENTRY.pack(_FILE, 0, _FOREVER, _FOREVER, 0, 0) + self._attributes(_FILE)

    def _read(self, node: int, body: bytes) -> bytes:
        _, at, size, *_ = _IO.unpack_from(body)
        return os.pread(self._image, size, at)

    def _write(self, node: int, body: bytes) -> bytes:
        _, at, size, *_ = _IO.unpack_from(body)
        data = body[_IO.size : _IO.size + size]
        note(self._log, at, data)
        os.pwrite(self._image, data, at)
        return _WRITTEN.pack(size, 0)

    def _flush(self, node: int, body: bytes) -> bytes:
        note(self._log, 0)
        return b""


def main() -> None:
    """Serve an image until it is unmounted."""
    image_path, log_path, place = sys.argv[1:]
    image = os.open(image_path, os.O_RDWR)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    command = ["/bin/mount", "-i", "-t", "fuse", "-o", options, "wingsd-power", place]
    subprocess.run(command, check=True, pass_fds=[device])
    print("ready", flush=True)
    _Server(image, log).serve(device)


if __name__ == "__main__":
    main()
