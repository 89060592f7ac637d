"""Batches of a move: nothing outside the tree is touched, and what is recorded is what is there.

An input is a raw batch, or steps that become batches with right digests: random ones would not get
past the first digest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path

import pyzstd

from fuzz.findings import Finding, pieces
from tests.support.attributes import OWN, acl
from wingsd.errors import RoundIncomplete, WingsdError
from wingsd.filesystem.attributes import encode_attributes, read_attributes
from wingsd.filesystem.openers import OpenatOpener
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import (
    HEAD,
    AttributesFrame,
    BatchKind,
    BatchReader,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    Index,
    LinkFrame,
    PutFrame,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.destination import MoveDestination, PieceReader
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.nodes import DirectoryNode, LinkNode
from wingsd.moves.tree import MoveLimits, MoveTree

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(b"WMVB\1\0\0\0", b"../outside", b"/etc", b"a/b", b"a", b"\0\x10\0\0", b"\0\0\1\0"),
    *(b"\x28\xb5\x2f\xfd", b"\1\0\0\0", b"\xff\xff\xff\xff"),
]

_IDS = (b"m" * 16, b"b" * 16)
_LIMITS = MoveLimits(64, 8 << 20)
_PATHS = (b"a", b"b", b"a/c", b"a/d", b"a/c/e", b"b/f", b"l", b"l/canary")
_TARGETS = (b"../outside", b"a", b"/etc/passwd")
_SIZES = (0, 1, 4096, 4097, 65_536, 70_000, 1 << 20, 1 << 40)
_ACL = acl(users={5: 7, OWN: 1}, group=4, mask=7)
_ATTRIBUTES = (
    *(b"", b"", b"", b"", b""),
    encode_attributes({b"user.a": b"1"}),
    encode_attributes({b"system.posix_acl_access": _ACL, b"user.b": b""}),
    b"\x02\0u.\0\0",
)
_SECRET = b"nobody may change this"


def one(data: bytes) -> None:
    """Read `data` after its first byte, which selects how it becomes batches."""
    if not data:
        return
    form, data = data[0] % 4, data[1:]
    if form == 0:
        _read(data, zstd=False)
    elif form == 1:
        _read(data, zstd=True)
    elif form == 2:  # noqa: PLR2004
        index = data[: 1 << 16]
        head = HEAD.pack(b"WMVB", 1, 0, len(index), sha256(index).digest())
        _read(head + index, zstd=False)
    else:
        _apply(list(_batches(data)))


def _read(data: bytes, *, zstd: bool) -> None:
    """Read one batch; what is read must be encoded to the same bytes."""
    reader = BatchReader(zstd=zstd)
    parts: list[bytes] = []
    try:
        for piece in pieces(data):
            for event in reader.feed(piece):
                parts.append(b"" if isinstance(event, Index) else bytes(event.data))
        index = reader.finish()
    except WingsdError as error:
        if not error.detail.isprintable():
            raise Finding(f"this cannot be shown to anybody: {error.detail!r}") from error
        return
    again = make_index(index.kind, index.number, index.round, index.needs, index.frames)
    if again.raw != index.raw:
        raise Finding("there are two encodings of one index")
    if not zstd and b"".join(encode_batch(again, parts)) != data:
        raise Finding("not all bytes were handed on")


class _Input:
    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def byte(self) -> int:
        """Return the next byte. Raises StopIteration."""
        return next(self._data)

    def of(self, values: Sequence[bytes]) -> bytes:
        return values[self.byte() % len(values)]


def _batches(data: bytes) -> Iterator[tuple[Index, bytes]]:
    """Yield batches of the frames that an input names."""
    source = _Input(data)
    number = 0
    try:
        while True:
            kind = source.byte()
            frames: list[Frame] = []
            contents: list[bytes] = []
            made = _MAKERS[:3] if kind & 1 else _MAKERS[3:5] if kind & 2 else _MAKERS[5:]
            for _ in range(1 + source.byte() % 4):
                frame, content = made[source.byte() % len(made)](source)
                frames.append(frame)
                contents.append(content)
            number += source.byte() % 3 or 1
            needs = min(source.byte(), number - 1)
            batch = BatchKind.DATA if kind & 1 else BatchKind.SHAPE
            yield make_index(batch, number, 1, needs, frames), b"".join(contents)
    except StopIteration:
        return


Made = tuple[Frame, bytes]


def _whole(source: _Input) -> Made:
    letter = source.byte()
    data = bytes([letter]) * source.byte()
    meta = (0o644, 5, len(data), block_digest(data), _ATTRIBUTES[letter % 8])
    return WholeFrame(source.of(_PATHS), *meta), data


def _data(source: _Input) -> Made:
    count, last = 1 + source.byte() % 3, 1 + source.byte() * 17 % 4096
    data = bytes([source.byte()]) * ((count - 1) * 4096 + last)
    digests = block_digests(data, 4096)
    return DataFrame(1 + source.byte() % 3, source.byte() % 20, 4096, last, digests), data


def _zero(source: _Input) -> Made:
    number, first, count = 1 + source.byte() % 3, source.byte() % 20, 1 + source.byte()
    if first == 19:  # noqa: PLR2004
        return AttributesFrame(number, _ATTRIBUTES[count % 8]), b""
    return ZeroFrame(number, first, count), b""


def _take(source: _Input) -> Made:
    return TakeFrame(source.of(_PATHS), source.byte() % 3), b""


def _gone(source: _Input) -> Made:
    return GoneFrame(source.of(_PATHS)), b""


def _directory(source: _Input) -> Made:
    path, mtime = source.of((*_PATHS, b"")), source.byte()
    return DirectoryFrame(path, 0o700, mtime, _ATTRIBUTES[mtime % 8]), b""


def _file(source: _Input) -> Made:
    size = _SIZES[source.byte() % len(_SIZES)]
    path = source.of(_PATHS)
    return FileFrame(1 + source.byte() % 3, path, 0o600, 7, size % (1 << 38), 4096), b""


def _link(source: _Input) -> Made:
    return LinkFrame(source.of(_PATHS), source.of(_TARGETS), 9), b""


def _hard(source: _Input) -> Made:
    return HardFrame(source.of(_PATHS), source.of(_PATHS)), b""


def _put(source: _Input) -> Made:
    return PutFrame(source.of(_PATHS), source.byte() % 3), b""


# Contents, removals, creations.
_MAKERS: tuple[Callable[[_Input], Made], ...] = (
    *(_whole, _data, _zero),
    *(_take, _gone),
    *(_directory, _file, _link, _hard, _put),
)


def _apply(batches: list[tuple[Index, bytes]]) -> None:
    """Apply batches; what the ledger says afterwards is what was there."""
    with tempfile.TemporaryDirectory(prefix="wingsd-fuzz-", dir=_place()) as top:
        outside = Path(top, "outside")
        for each in ("outside", "tree", "aside"):
            Path(top, each).mkdir()
        (outside / "canary").write_bytes(_SECRET)
        said = _run(top, batches)
        if said is not None and _run(top, []) != said:
            raise Finding("the ledger says something else")
        if (outside / "canary").read_bytes() != _SECRET or len(os.listdir(outside)) != 1:
            raise Finding("something outside was changed")


def _run(top: str, batches: list[tuple[Index, bytes]]) -> list[object] | None:
    """Open the move and apply batches; return all that it says, None after a refusal."""
    with ExitStack() as stack:
        fds = [os.open(f"{top}/{name}", os.O_RDONLY) for name in ("tree", "aside")]
        for fd in fds:
            stack.callback(os.close, fd)
        applier = TreeApplier(fds[0], fds[1], None, OpenatOpener())
        stack.enter_context(closing(applier))
        ledger = f"{top}/ledger"
        move = MoveDestination(ledger, _IDS, _LIMITS, applier, lambda: None)
        stack.enter_context(closing(move))
        try:
            for index, data in batches:
                _send(move, index, data)
        except WingsdError as error:
            if not error.detail.isprintable():
                raise Finding(f"this cannot be shown to anybody: {error.detail!r}") from error
            return None
        return _said(move, Path(top, "tree"))


def _send(move: MoveDestination, index: Index, data: bytes) -> None:
    reader = BatchReader()
    for piece in pieces(b"".join(encode_batch(index, [data]))):
        for event in reader.feed(piece):
            if not isinstance(event, Index):
                move.write(index, [event])
            elif event.kind is BatchKind.DATA and not move.begin(index):
                return
    if reader.finish().kind is BatchKind.SHAPE:
        move.begin(index)
    else:
        move.end(index)


def _differs(move: MoveDestination, root: Path) -> bool:
    move.rereading.restart()
    with closing(PieceReader(os.open(root, os.O_RDONLY))) as reader:
        while portion := move.rereading.take():
            if any(move.rereading.settle(reader.differing(portion))):
                return True
    return False


def _said(move: MoveDestination, root: Path) -> list[object]:
    tree = move.tree
    try:
        found: list[object] = [tree.root()]
    except RoundIncomplete:
        found = [path for path, _ in tree.missing()]
    else:
        if _differs(move, root):
            raise Finding("the disk has something else than the tree")
        move.finish()
        _look_at_attributes(tree, root)
    names = {path: isinstance(node, DirectoryNode) for path, node in tree.walk()}
    missing = {path for path, _ in tree.missing()}
    for path, is_directory in names.items():
        there = os.path.join(os.fsencode(root), path)
        if path not in missing and (
            not os.path.lexists(there)
            or is_directory is not (os.path.isdir(there) and not os.path.islink(there))
        ):
            raise Finding(f"{path!r} is not on the disk as in the tree")
    return [*found, names, move.received.upto, move.received.beyond, sorted(tree.slots)]


def _look_at_attributes(tree: MoveTree, root: Path) -> None:
    owner = (os.geteuid(), os.getegid())
    for path, node in tree.walk():
        if isinstance(node, LinkNode):
            continue
        fd = os.open(os.path.join(os.fsencode(root), path), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if read_attributes(fd, owner)[0] != node.attributes:
                raise Finding(f"{path!r} has other attributes than in the tree")
        finally:
            os.close(fd)


def _place() -> str | None:
    # Memory is faster than a disk, and wears none out.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def seeds() -> Iterator[bytes]:
    """Yield a batch of each kind, and steps of every frame."""
    data = b"x" * 5000
    shape = make_index(
        BatchKind.SHAPE,
        *(1, 1, 0),
        [
            DirectoryFrame(b"", 0o755, 1),
            DirectoryFrame(b"a", 0o755, 1),
            FileFrame(1, b"a/c", 0o644, 1, 5000, 4096),
            LinkFrame(b"l", b"../outside", 1),
            HardFrame(b"b", b"a/c"),
            PutFrame(b"a/d", 1),
        ],
    )
    removal = make_index(BatchKind.SHAPE, 2, 1, 1, [TakeFrame(b"b", 1), GoneFrame(b"a")])
    contents = make_index(
        BatchKind.DATA,
        *(3, 1, 2),
        [
            WholeFrame(b"w", 0o600, 1, 4, block_digest(b"1234")),
            DataFrame(1, 0, 4096, 904, block_digests(data, 4096)),
            AttributesFrame(2, _ATTRIBUTES[6]),
            ZeroFrame(2, 0, 4),
            WholeFrame(b"v", 0o600, 1, 0, block_digest(b""), _ATTRIBUTES[5]),
        ],
    )
    for index, parts in ((shape, []), (removal, []), (contents, [b"1234", data])):
        batch = b"".join(encode_batch(index, parts))
        yield b"\0" + batch
        yield b"\1" + pyzstd.compress(batch)
        yield b"\2" + index.raw
    # a directory and two files, their contents, a move, and another directory
    yield bytes((3, 0, 2, 0, 0, 1, 1, 4, 2, 0, 1, 3, 2, 2, 1, 0, 1, 0))
    yield bytes((3, 0, 1, 0, 0, 1, 1, 5, 2, 0, 1, 0, 1, 1, 1, 240, 7, 0, 0, 1, 1))
    yield bytes((3, 1, 0, 0, 65, 9, 0, 1, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0, 4, 1, 0, 1, 2))
