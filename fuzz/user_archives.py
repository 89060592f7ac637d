"""Archives of users: the frames that a process sends, and what it makes of an archive's list.

The first byte selects. Either the rest is what a process that was taken over sends: it is refused,
or its files land in the directory. Or it is an archive, whose name the byte tells: what parsing
sends is valid, and what comes of it is an extracted archive, or a refusal with a reason.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.findings import Finding
from wingsd.errors import ArchiveNotParsed, WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.extraction import Extracting, extract
from wingsd.files.guard import Guard
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.user_archives import child
from wingsd.user_archives.frames import (
    ArchiveMember,
    ArchivePlan,
    ArchiveRefused,
    FrameKind,
    InvalidFrames,
    MemberKind,
    ParsedArchive,
    Reason,
    frame,
    parsed,
)
from wingsd.user_archives.kinds import NameHint
from wingsd.user_archives.process import ParserFailed

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(each.value for each in FrameKind),
    *(b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"),
    *(b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"),
    *(b"LZIP\x01", b"\xff\x06\x00\x00sNaPpY", b"\x04\x22\x4d\x18", b"ustar\x0000", b"ustar  \0"),
    *(b"../", b"/etc/", b"d.key", b"out/x", b"fifo", b"././@LongLink", b"path="),
]
_NAMES = (b"a", b"a.zip", b"a.tar", b"a.tar.gz", b"a.rar", b"a.br", b"a.tar.br", b"a.7z.001")
_LIMIT = 100_000
_SERVER_ERROR = 500
_FRAMES = 0x80


class _Parsed:
    """Parses an archive in this process, or yields what given frames hold."""

    frames: bytes | None = None

    def __init__(
        self, archive: int, size: int, hint: NameHint, most: int | None, *_: object
    ) -> None:
        self._archive = archive
        self._hint = hint
        self._most = -1 if most is None else most

    def contents(self) -> Iterator[ParsedArchive]:
        """Yield what the archive holds."""
        is_given = self.frames is not None
        sent = io.BytesIO(self._sent() if self.frames is None else self.frames)

        def read(size: int) -> bytes:
            found = sent.read(size)
            if len(found) < size:
                raise EOFError
            return found

        try:
            yield from parsed(read)
        except EOFError:
            raise ParserFailed("it has ended") from None
        except InvalidFrames as error:
            if not is_given:
                raise Finding(f"the process sends {error}") from error
            raise ParserFailed(str(error)) from error

    def _sent(self) -> bytes:
        sent: Any = io.BytesIO()
        with io.FileIO(os.dup(self._archive)) as file:
            child.answer(file, sent, self._most, self._hint, lambda: None)
        return bytes(sent.getvalue())


def one(data: bytes) -> None:
    """Extract one archive, or what such frames tell."""
    if not data:
        return
    is_frames = bool(data[0] & _FRAMES)
    name = _NAMES[(data[0] & ~_FRAMES) % len(_NAMES)]
    parse = type("Given", (_Parsed,), {"frames": data[1:]}) if is_frames else _Parsed
    with TemporaryDirectory(dir="/dev/shm") as top:
        home = _planted(Path(top))
        (home / os.fsdecode(name)).write_bytes(data[1:])
        usage = UsageCounter(used=10, limit=_LIMIT)
        try:
            with ServerRoot(str(home), directory_opener("auto"), None, usage) as root:
                asked = Extracting(ServerPath((name,)), ServerPath((b"a1",)), _LIMIT)
                extract(Guard(root, Denylist(["*.key"])), asked, parse)
        except ArchiveNotParsed:
            if not is_frames:
                raise
        except WingsdError as error:
            if error.status >= _SERVER_ERROR or not error.message:
                raise Finding(f"it is refused as {error.status}: {error}") from error
        _check(Path(top), home, name)


def _planted(top: Path) -> Path:
    home = top / "home"
    (home / "a1").mkdir(parents=True)
    (top / "beside").write_text("beside")
    (top / "beside").chmod(0o640)
    (home / "a1/d.key").write_text("key")
    (home / "a1/out").symlink_to(top)
    os.mkfifo(home / "a1/fifo")
    return home


def _check(top: Path, home: Path, name: bytes) -> None:
    beside = top / "beside"
    if sorted(os.listdir(top)) != ["beside", "home"] or beside.read_text() != "beside":
        raise Finding("something beside the server's directory has changed")
    if beside.stat().st_mode & 0o777 != 0o640:  # noqa: PLR2004
        raise Finding("the mode of a file beside the server's directory has changed")
    if sorted(os.listdir(home)) != sorted([os.fsdecode(name), "a1"]):
        raise Finding("something was extracted elsewhere")
    if (home / "a1/d.key").read_text() != "key":
        raise Finding("a denied file has changed")
    for _, _, files, _ in os.fwalk(os.fsencode(home)):
        if any(each.startswith(b".wingsd-") for each in files):
            raise Finding("a file that was being written is left over")


def seeds() -> Iterator[bytes]:
    """Yield the corpus of hostile archives as far as it is small, and frames of each kind."""
    from tests.user_archives.hostile import CORPUS  # noqa: PLC0415

    numbers = {name: number for number, name in enumerate(_NAMES)}
    for case in CORPUS:
        if len(case.data) < 8 << 10:
            yield bytes([numbers.get(case.name.encode(), 0)]) + case.data
    parts = [
        ArchivePlan(9, 6).encode(),
        frame(FrameKind.TICK),
        ArchiveMember(MemberKind.FILE, b"../x/f", 0o4644, 1 << 60, 4).encode(),
        frame(FrameKind.DATA, b"evil"),
        frame(FrameKind.MEMBER_END),
    ]
    for kind, name, link in (
        (MemberKind.DIRECTORY, b"d/", b""),
        (MemberKind.SYMLINK, b"s", b"x/f"),
        (MemberKind.HARD_LINK, b"h", b"x/f"),
        (MemberKind.OTHER, b"o", b""),
    ):
        parts += [ArchiveMember(kind, name, 0o755, None, 0, link).encode()]
        parts += [frame(FrameKind.MEMBER_END)]
    yield bytes([_FRAMES]) + b"".join(parts) + frame(FrameKind.END)
    yield bytes([_FRAMES]) + b"".join(parts) + ArchiveRefused(Reason.DAMAGED, "why").encode()
