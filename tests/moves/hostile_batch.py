"""What hostile batches are made of, and what the destination has that gets them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from struct import pack

from attrs import field, frozen

from wingsd.errors import BatchInvalid, FrameRefused, WingsdError
from wingsd.moves.batch import (
    HEAD,
    BatchKind,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    WholeFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.tree import MoveLimits

__all__ = [
    "BASE",
    "DATA",
    "GOOD",
    "GOOD_DATA",
    "LIMITS",
    "D",
    "HostileBatch",
    "data",
    "index",
    "invalid",
    "raw",
    "refused",
    "shape",
    "whole",
]

LIMITS = MoveLimits(40, 1 << 20)

DATA = b"0123456789" * 1000
D = block_digest(b"good")


def shape(number: int, needs: int, *frames: Frame, in_round: int = 1) -> bytes:
    return b"".join(encode_batch(make_index(BatchKind.SHAPE, number, in_round, needs, frames), ()))


def data(
    number: int, needs: int, *frames: Frame, content: bytes = b"", in_round: int = 1
) -> bytes:
    index = make_index(BatchKind.DATA, number, in_round, needs, frames)
    return b"".join(encode_batch(index, [content]))


def whole(path: bytes, content: bytes = b"good") -> WholeFrame:
    return WholeFrame(path, 0o644, 1, len(content), block_digest(content))


#: What the destination has: a directory, a file of three blocks, links, small files.
BASE = (
    shape(
        1,
        0,
        DirectoryFrame(b"d", 0o755, 1),
        FileFrame(5, b"d/f", 0o644, 1, len(DATA), 4096),
        LinkFrame(b"l", b"../outside", 1),
        HardFrame(b"h", b"d/f"),
    ),
    data(
        2,
        1,
        DataFrame(5, 0, 4096, len(DATA) - 8192, block_digests(DATA, 4096)),
        whole(b"w"),
        whole(b"d/w"),
        content=DATA + b"goodgood",
    ),
)


@frozen
class HostileBatch:
    """Batches that follow `BASE`, the last of which must fail with an error and its words."""

    name: str
    _batches: tuple[bytes | Callable[[], bytes], ...] = field(repr=False)
    error: type[WingsdError]
    words: str
    zstd: bool = False

    @property
    def batches(self) -> list[bytes]:
        """Made now where that takes long: each process collects all of the corpus."""
        return [each if isinstance(each, bytes) else each() for each in self._batches]


def refused(name: str, words: str, *batches: bytes) -> HostileBatch:
    return HostileBatch(name, batches, FrameRefused, words)


def invalid(
    name: str, words: str, *batches: bytes | Callable[[], bytes], zstd: bool = False
) -> HostileBatch:
    return HostileBatch(name, batches, BatchInvalid, words, zstd)


def raw(index: bytes, content: bytes = b"", **head: int) -> bytes:
    """Return a batch of any index, with a right digest."""
    fields = {"version": 1, "reserved": 0, "length": len(index)} | head
    start = HEAD.pack(
        b"WMVB", fields["version"], fields["reserved"], fields["length"], sha256(index).digest()
    )
    return start + index + content


def index(
    frames: bytes = b"\x07\x01\0w",
    *,
    number: int = 3,
    in_round: int = 1,
    kind: int = 1,
    needs: int = 1,
    count: int = 1,
) -> bytes:
    return pack("<QIBQI", number, in_round, kind, needs, count) + frames


GOOD = shape(3, 1, GoneFrame(b"w"))
GOOD_DATA = data(3, 1, whole(b"n"), content=b"good")
