"""What a client sends in a channel of SFTP, above SSH, carried out on a directory of the disk.

Whatever it is: packets are answered with packets, or the channel is closed; only the server's
directory changes, and no file that is denied; nothing stays open.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore
from types import SimpleNamespace
from typing import Any

from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.packet import SSHPacket, String

from fuzz.findings import Finding, pieces
from wingsd.config import SftpConfig, SftpLimits
from wingsd.errors import InvalidData
from wingsd.filesystem.openers import directory_opener
from wingsd.sftp.messages import Granted, ServerState
from wingsd.sftp.server import packets
from wingsd.sftp.server.access import ServerUsage, SessionAccess
from wingsd.sftp.server.connection import SftpChannel

__all__ = ["WORDS", "one", "seeds"]

_LIMIT = 100_000
_HANDLES = 8
_CONFIG = SftpConfig(
    directory_entry_limit=100,
    directory_entry_send_amount=3,
    limits=SftpLimits(max_handles_per_channel=_HANDLES),
)
_NAMES = [b"a/b", b"a", b"/", b"..", b"out/x", b"in/b", b"fifo", b"d.key", b"new/\xff", b""]
_EXTENSIONS = {
    b"posix-rename@openssh.com": 2,
    b"hardlink@openssh.com": 2,
    b"statvfs@openssh.com": 1,
    b"lsetstat@openssh.com": 1,
    b"limits@openssh.com": 0,
}
#: The flags of attributes with all fields.
_ALL = 0x8000000F


def _string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def _packet(kind: int, body: bytes, request: int = 1) -> bytes:
    return _string(struct.pack(">BI", kind, request) + body)


WORDS = [
    *map(_string, _NAMES),
    *map(_string, _EXTENSIONS),
    *(_string(number.to_bytes(8, "big")) for number in range(3)),
    *(bytes([0, 0, 0, size]) for size in (5, 9, 13, 21)),
    b"\xff\xff\xff\xff",
    struct.pack(">I", _ALL),
]


class _Channel:
    """The channel and the connection of SSH: what is sent is kept, and the windows do not end."""

    opening = (0, 1 << 40, 32 << 10)
    exchanges_keys = holds = False

    def __init__(self) -> None:
        self.owner = self
        self.written = bytearray()
        self.is_closed = False
        self.process_packet: Callable[[int, int, SSHPacket], object] = lambda *_: True
        self.log_received_packet = self.process_packet

    def send_data(self, _: int, data: bytes | memoryview) -> None:
        if self.is_closed:
            raise Finding("it writes after the end")
        self.written += data

    def call(self, function: Callable[[], object]) -> None:
        function()

    def note_packet(self) -> None:
        pass

    def gather(self, work: Callable[[], None]) -> None:
        work()

    def is_closing(self) -> bool:
        return self.is_closed

    def exit(self, status: int) -> None:
        self.is_closed = True

    def get_recv_window(self) -> int:
        return 1 << 40


class _NoThreads:
    """Does everything at once."""

    def submit(self, work: Callable[[bytes], bytes], packet: bytes) -> Future[bytes]:
        done: Future[bytes] = Future()
        try:
            done.set_result(work(packet))
        except InvalidData as error:
            done.set_exception(error)
        return done


def one(data: bytes) -> None:
    """Send a channel one stream of bytes, cut into pieces."""
    with TemporaryDirectory(dir="/dev/shm") as top:
        home = _planted(Path(top))
        budget = Semaphore(_HANDLES)
        channel, ended = _sent(data, home, budget)
        _check_answers(bytes(channel.written))
        if ended != [None]:
            raise Finding(f"its end was told {len(ended)} times")
        if not all(budget.acquire(blocking=False) for _ in range(_HANDLES)):
            raise Finding("a handle is still counted")
        _check(Path(top), home)


def _sent(data: bytes, home: Path, budget: Semaphore) -> tuple[_Channel, list[None]]:
    granted = Granted(0, "user", "server", str(home), ("*",), ("*.key",), ("hidden",))
    usage = ServerUsage()
    usage.correct(ServerState("server", used=10, limit=_LIMIT))
    faults: list[BaseException] = []
    ended: list[None] = []
    whole: Any = SimpleNamespace(
        opener=directory_opener("auto"),
        owner=None,
        past=None,
        read_only=False,
        usage=lambda _: usage,
        link=SimpleNamespace(post=lambda *_, **__: None),
        config=_CONFIG,
        budget=budget,
        windows=Semaphore(1),
        threads=_NoThreads(),
        count=lambda *_: None,
        fault=faults.append,
    )
    channel: Any = _Channel()
    channel.channel_ended = lambda _: ended.append(None)
    channel.server = whole
    session = SftpChannel(SessionAccess(granted, whole, 1), channel, 1)
    session.connection_made(channel)
    session.subsystem_requested("sftp")
    session.session_started()
    for piece in pieces(data):
        if not channel.is_closed:
            packet = SSHPacket(String(piece))
            channel.process_packet(MSG_CHANNEL_DATA, 0, packet)
    if not channel.is_closed:
        session.eof_received()
    session.connection_lost(None)
    if faults:
        raise Finding(f"a request fails: {faults[0]!r}") from faults[0]
    return channel, ended


def _check_answers(written: bytes) -> None:
    """Check that they are whole packets: no client could read what follows another one."""
    at = 0
    while at < len(written):
        (length,) = struct.unpack_from(">I", written, at)
        if not 0 < length <= packets.MAX_PACKET:
            raise Finding(f"an answer has the length {length}")
        at += 4 + length
    if at != len(written):
        raise Finding("the last answer is cut")


def _planted(top: Path) -> Path:
    home = top / "home"
    (home / "a").mkdir(parents=True)
    (top / "beside").write_text("beside")
    (top / "beside").chmod(0o640)
    (home / "a/b").write_text("b")
    (home / "d.key").write_text("key")
    (home / "hidden").write_text("hidden")
    (home / "out").symlink_to(top)
    (home / "in").symlink_to("a")
    os.mkfifo(home / "fifo")
    return home


def _check(top: Path, home: Path) -> None:
    beside = top / "beside"
    if sorted(os.listdir(top)) != ["beside", "home"] or beside.read_text() != "beside":
        raise Finding("something beside the server's directory has changed")
    if beside.stat().st_mode & 0o777 != 0o640 or beside.stat().st_nlink != 1:  # noqa: PLR2004
        raise Finding("a file beside the server's directory has changed")
    if (home / "d.key").read_text() != "key" or (home / "d.key").stat().st_nlink != 1:
        raise Finding("a denied file has changed")
    if (home / "hidden").read_text() != "hidden":
        raise Finding("a file that the user may not see has changed")


def seeds() -> Iterator[bytes]:
    """Yield sessions: each request with names, and the life of an open file and a directory."""
    begin = _packet(packets.INIT, b"", 3)[:9]
    first = _string(bytes(8))
    every = struct.pack(">IQIIIII", 0x0F, 3, 0, 0, 0o600, 1, 2)
    yield begin
    for name in _NAMES:
        text = _string(name)
        paths = [packets.LSTAT, packets.STAT, packets.OPENDIR, packets.REALPATH, packets.READLINK]
        yield begin + b"".join(_packet(kind, text) for kind in paths)
        yield begin + b"".join(_packet(kind, text) for kind in (packets.REMOVE, packets.RMDIR))
        yield begin + b"".join(
            _packet(kind, text + every) for kind in (packets.MKDIR, packets.SETSTAT)
        )
        for other in (b"x", b"../x"):
            yield begin + b"".join(
                _packet(kind, text + _string(other)) for kind in (packets.SYMLINK, packets.RENAME)
            )
        for flags in (0x01, 0x02, 0x1A, 0x2A, 0x0E):
            yield begin + b"".join(
                (
                    _packet(packets.OPEN, text + struct.pack(">II", flags, 0)),
                    _packet(packets.WRITE_DATA, first + struct.pack(">Q", 2) + _string(b"data")),
                    _packet(packets.READ_DATA, first + struct.pack(">QI", 0, 9)),
                    _packet(packets.FSTAT, first),
                    _packet(packets.FSETSTAT, first + every),
                    _packet(packets.EXTENDED, _string(b"fsync@openssh.com") + first),
                    _packet(packets.CLOSE, first),
                )
            )
    directory = _packet(packets.OPENDIR, _string(b"/")) + _packet(packets.READDIR, first) * 5
    yield begin + directory + _packet(packets.CLOSE, first)
    for extension, count in _EXTENSIONS.items():
        arguments = b"".join(map(_string, (b"a/b", b"a/c")[:count]))
        yield begin + _packet(packets.EXTENDED, _string(extension) + arguments + every)
