"""`python -m tests.power.fuse_disk IMAGE LOG PLACE`: a file by FUSE with a log.

PLACE/disk is what a loop device writes to. Writes and flushes are noted in LOG in their order,
then done to IMAGE. It speaks as much of FUSE's protocol as a loop device needs (linux/fuse.h),
and ends when PLACE is unmounted. "ready" is printed when it is there.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from struct import Struct

from tests.power.log import Kind, note

__all__: list[str] = []

_IN = Struct("<IIQQIIIHH")
_OUT = Struct("<IiQ")
_INIT = Struct("<IIIIHHIIHHII24x")
_ATTR = Struct("<QQQQQQIIIIIIIIII")
_ENTRY = Struct("<QQQQII")
_GETATTR = Struct("<QII")
_OPEN = Struct("<QII")
_IO = Struct("<QQIIQII")
_WRITTEN = Struct("<II")
_FALLOCATE = Struct("<QQQII")
_STATFS = Struct("<QQQQQIIII24x")

_TOP, _FILE = 1, 2
_NAME = b"disk"
_MAX_WRITE = 1 << 20
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO = 1
_FOREVER = 1 << 30


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
            17: lambda *_: _STATFS.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0),
            18: lambda *_: b"",
            20: self._flush,
            25: lambda *_: b"",
            26: self._init,
            27: lambda *_: _OPEN.pack(0, 0, 0),
            29: lambda *_: b"",
            38: lambda *_: b"",
            43: self._allocate,
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
            if kind in (2, 36, 42):  # forgotten nodes and interrupts have no answer
                continue
            try:
                handler = self._handlers.get(kind, self._unknown)
                answer, fault = handler(node, request[_IN.size :]), 0
            except Refused as error:
                answer, fault = b"", -error.number
            os.write(device, _OUT.pack(_OUT.size + len(answer), fault, unique) + answer)

    def _init(self, node: int, body: bytes) -> bytes:
        flags = _BIG_WRITES | _MAX_PAGES
        return _INIT.pack(7, 31, 0, flags, 16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0, 0, 0)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o700 if node == _TOP else stat.S_IFREG | 0o600
        size = 0 if node == _TOP else self._size
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        if node != _TOP or body.rstrip(b"\0") != _NAME:
            raise Refused(errno.ENOENT)
        return _ENTRY.pack(_FILE, 0, _FOREVER, _FOREVER, 0, 0) + self._attributes(_FILE)

    def _read(self, node: int, body: bytes) -> bytes:
        _, at, size, *_ = _IO.unpack_from(body)
        return os.pread(self._image, size, at)

    def _write(self, node: int, body: bytes) -> bytes:
        _, at, size, *_ = _IO.unpack_from(body)
        data = body[_IO.size : _IO.size + size]
        note(self._log, Kind.WRITE, at, data)
        os.pwrite(self._image, data, at)
        return _WRITTEN.pack(size, 0)

    def _flush(self, node: int, body: bytes) -> bytes:
        note(self._log, Kind.FLUSH, 0, b"")
        return b""

    def _unknown(self, node: int, body: bytes) -> bytes:
        raise Refused(errno.ENOSYS)

    def _allocate(self, node: int, body: bytes) -> bytes:
        # A file system that is told this writes the zeros itself.
        raise Refused(errno.EOPNOTSUPP)


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
