"""Batches: what one request of a move has. A head, the index (all frames) and their bytes.

The index is what the ledger records of a batch: it has all of it but the bytes, and their digests.
A shape batch has frames of one phase, so that applying it once more after a crash does no harm:
removal (`TAKE`, `GONE`) or creation (`DIR`, `PUT`, `FILE`, `LINK`, `HARD`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import sha256
from struct import Struct
from typing import cast

from attrs import frozen

from wingsd.moves.errors import MoveVersionUnknown, damaged, invalid, refused
from wingsd.moves.frames import (
    AttributesFrame,
    Content,
    DataFrame,
    Frame,
    GoneFrame,
    HardFrame,
    PutFrame,
    Shape,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
    decode_frame,
)
from wingsd.util.text import display

__all__ = [
    "CONTENT_TYPE",
    "HEAD",
    "MAX_DATA",
    "MAX_FRAMES",
    "MAX_INDEX",
    "VERSION",
    "ZSTD_CONTENT_TYPE",
    "BatchKind",
    "Index",
    "decode_index",
    "encode_batch",
    "encode_head",
    "frame_bytes",
    "index_length",
    "make_index",
]

CONTENT_TYPE = "application/vnd.wingsd.batch"
ZSTD_CONTENT_TYPE = f"{CONTENT_TYPE}+zstd"
"""Of a compressed batch. Content-Encoding would not pass each proxy."""

VERSION = 1
"""The version of batches, frames and digests."""

MAX_INDEX = 16 << 20
"""Bytes of an index."""

MAX_FRAMES = 1 << 16
"""Frames of a batch: each takes memory beside its bytes."""

MAX_DATA = 112 << 20
"""Bytes of a batch beside its index: both together are 128 MiB."""

HEAD = Struct("<4sHHI32s")
"""The head: magic, version, two zero bytes, the index's length and its SHA-256."""

_MAGIC = b"WMVB"
_INDEX = Struct("<QIBQI")
_REMOVAL = (TakeFrame, GoneFrame)
# Tuples: with a union isinstance takes three times as long.
_WITH_BYTES = (WholeFrame, DataFrame)
_BLOCKS = (DataFrame, ZeroFrame)
_OF_NUMBERS = (*_BLOCKS, AttributesFrame)
_CONTENT = (*_OF_NUMBERS, WholeFrame)


class BatchKind(Enum):
    """Whether a batch has shape or data frames."""

    SHAPE = 1
    DATA = 2


@frozen(repr=False)
class Index:
    """All of a batch but its bytes; `raw` is its encoding, `digest` the SHA-256 of that.

    All frames are of its kind.

    `number` counts from 1 in a move, `round` from 1. `needs` is the number of a shape batch: of
    data the one that must have been applied, of a shape batch the one before it, 0 for none.
    """

    kind: BatchKind
    number: int
    round: int
    needs: int
    frames: tuple[Frame, ...]
    raw: bytes
    digest: bytes

    @property
    def contents(self) -> tuple[Content, ...]:
        """The frames of a data batch."""
        return cast("tuple[Content, ...]", self.frames if self.kind is BatchKind.DATA else ())

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The frames of a shape batch."""
        return cast("tuple[Shape, ...]", self.frames if self.kind is BatchKind.SHAPE else ())


def frame_bytes(frame: Frame) -> int:
    """Return how many bytes belong to a frame."""
    return frame.size if isinstance(frame, _WITH_BYTES) else 0


def make_index(
    kind: BatchKind,
    number: int,
    in_round: int,
    needs: int,
    frames: Sequence[Frame],
    encoded: Sequence[bytes] | None = None,
) -> Index:
    """Return the index of frames, which must be valid, and may be encoded already."""
    head = _INDEX.pack(number, in_round, kind.value, needs, len(frames))
    if encoded is None:
        encoded = [frame.encode() for frame in frames]
    raw = b"".join((head, *encoded))
    return Index(kind, number, in_round, needs, tuple(frames), raw, sha256(raw).digest())


def encode_head(index: Index) -> bytes:
    """Return the head of a batch."""
    return HEAD.pack(_MAGIC, VERSION, 0, len(index.raw), index.digest)


def encode_batch(index: Index, data: Sequence[bytes]) -> Iterator[bytes]:
    """Yield a batch, with the bytes of its frames in their order."""
    yield encode_head(index)
    yield index.raw
    yield from data


def index_length(head: bytes) -> tuple[int, bytes]:
    """Return the length of the index, and its digest, from a head of `HEAD.size` bytes.

    Raises BatchInvalid and MoveVersionUnknown.
    """
    magic, version, reserved, length, digest = HEAD.unpack(head)
    if magic != _MAGIC:
        raise invalid("it does not begin as a batch does")
    if version != VERSION:
        raise MoveVersionUnknown(version, VERSION)
    if reserved:
        raise invalid("its head has bits of no meaning")
    if not _INDEX.size < length <= MAX_INDEX:
        raise invalid(f"its index has {length} bytes")
    return length, digest


def decode_index(raw: bytes, digest: bytes | None = None, *, most_data: int = MAX_DATA) -> Index:
    """Return the index of its bytes; with `digest` after it was compared.

    `most_data` is how many bytes may belong to its frames.

    Raises BatchInvalid, BatchDamaged and FrameRefused.
    """
    found = sha256(raw).digest()
    if digest is not None and found != digest:
        raise damaged("the index")
    if len(raw) < _INDEX.size:
        raise invalid(f"its index has {len(raw)} bytes")
    number, in_round, kind_value, needs, count = _INDEX.unpack_from(raw)
    if kind_value not in (BatchKind.SHAPE.value, BatchKind.DATA.value):
        raise invalid(f"it is of the unknown kind {kind_value}")
    if not number or not in_round or needs >= number:
        raise invalid(f"it has number {number}, round {in_round} and needs {needs}")
    if not 0 < count <= MAX_FRAMES:
        raise invalid(f"it has {count} frames")
    kind = BatchKind(kind_value)
    checks = _Checks(kind, most_data)
    frames: list[Frame] = []
    at = _INDEX.size
    for _ in range(count):
        frame, at = decode_frame(raw, at)
        checks.add(frame)
        frames.append(frame)
    if at != len(raw):
        raise invalid("its index has more than its frames")
    return Index(kind, number, in_round, needs, tuple(frames), raw, found)


class _Checks:
    """What the frames of one batch may not be together."""

    def __init__(self, kind: BatchKind, most_data: int) -> None:
        self._is_data = kind is BatchKind.DATA
        self._most_data = most_data
        self._phase: bool | None = None
        self._paths: set[bytes] = set()
        self._slots: set[int] = set()
        self._number = self._end = self._bytes = 0
        self._numbers: set[int] = set()

    def add(self, frame: Frame) -> None:
        """Check one more frame."""
        if isinstance(frame, _CONTENT) is not self._is_data:
            raise invalid("it mixes shape and data")
        if isinstance(frame, _OF_NUMBERS):
            self._add_blocks(frame)
        else:
            self._add_path(frame)
        self._bytes += frame_bytes(frame)
        if self._bytes > self._most_data:
            raise invalid(f"it has more than {self._most_data} bytes")

    def _add_path(self, frame: Shape | WholeFrame) -> None:
        path = frame.path
        if not isinstance(frame, PutFrame):  # its metadata may follow
            if path in self._paths:
                raise refused(f"the path {display(path)} comes twice")
            self._paths.add(path)
        if self._is_data:
            return
        is_removal = isinstance(frame, _REMOVAL)
        if self._phase is not None and is_removal is not self._phase:
            raise refused("it both removes and makes names")
        self._phase = is_removal
        if isinstance(frame, TakeFrame | PutFrame):
            if frame.slot in self._slots:
                raise refused(f"slot {frame.slot} comes twice")
            self._slots.add(frame.slot)
        if isinstance(frame, HardFrame) and frame.first == path:
            raise refused(f"{display(path)} is a hard link to itself")

    def _add_blocks(self, frame: DataFrame | ZeroFrame | AttributesFrame) -> None:
        if frame.number != self._number:
            if frame.number in self._numbers:
                raise refused(f"the blocks of file {frame.number} are not together")
            self._numbers.add(frame.number)
            self._number, self._end = frame.number, 0
        elif isinstance(frame, AttributesFrame):
            raise refused(f"the attributes of file {frame.number} do not come before its blocks")
        if isinstance(frame, AttributesFrame):
            return
        if frame.first < self._end:
            raise refused(f"blocks of file {frame.number} come twice, or not in order")
        self._end = frame.first + frame.count
