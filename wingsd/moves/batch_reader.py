"""Decodes a batch from pieces of any size, sans-IO. Every block is compared with its digest.

Blocks that lie within one piece are handed on as views of it, several together, without a copy.
Memory holds the index, and one block that lies in two pieces. The checksums by which blocks are
read back from the disk are made before the digests are compared: so they are of what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from wingsd.moves.batch import (
    HEAD,
    MAX_DATA,
    MAX_INDEX,
    Index,
    decode_index,
    frame_bytes,
    index_length,
)
from wingsd.moves.digests import DIGEST, Bytes, block_digest, block_digests
from wingsd.moves.errors import MoveBatchTooLarge, damaged, invalid
from wingsd.moves.frames import AttributesFrame, Content, DataFrame, WholeFrame, ZeroFrame
from wingsd.moves.written import RunningChecksum
from wingsd.moves.zstd import Inflater
from wingsd.util.text import display

__all__ = ["BatchReader", "BlockRun"]


@frozen(eq=False, repr=False)
class BlockRun:
    """Consecutive blocks that have arrived and fit their digests.

    `first` and `count` are blocks; `data` is a view of the piece that was fed. A `ZERO`
    frame is one run, without data. `crc` is the CRC-32 of all from the block `since` on.
    """

    frame: Content
    first: int
    count: int
    data: memoryview
    since: int = 0
    crc: int = 0


_NOTHING = memoryview(b"")


class BatchReader:
    """Reads one batch: `feed` each piece, then `finish`. Of no more use after an error.

    With `zstd` the batch arrives compressed; `most` is how many bytes it may have without that.
    """

    def __init__(self, *, zstd: bool = False, most: int = MAX_INDEX + MAX_DATA) -> None:
        #: The index, once it has arrived.
        self.index: Index | None = None
        self._inflater = Inflater() if zstd else None
        self._most = most
        self._kept = bytearray()
        self._needed = HEAD.size
        self._digest: bytes | None = None
        self._frames: Iterator[Content] = iter(())
        #: The frame whose blocks come next, and how many of its blocks have come.
        self._frame: DataFrame | WholeFrame | None = None
        self._done = 0
        self._checksum = RunningChecksum()
        self._is_complete = False

    def feed(self, data: Bytes) -> Iterator[Index | BlockRun]:
        """Yield the index, and then runs of blocks. To be iterated to its end.

        Raises BatchInvalid, BatchDamaged, FrameRefused, MoveBatchTooLarge and MoveVersionUnknown.
        """
        if self._inflater is None:
            yield from self._plain(memoryview(data))
            return
        for piece in self._inflater.feed(data):
            yield from self._plain(memoryview(piece))

    def finish(self) -> Index:
        """Return the index at the end of the bytes. Raises BatchInvalid where some are missing."""
        if self.index is None or not self._is_complete:
            raise invalid("it ends in the middle")
        if self._inflater is not None:
            self._inflater.finish()
        return self.index

    def _plain(self, piece: memoryview) -> Iterator[Index | BlockRun]:
        while self.index is None and piece:
            piece = self._keep(piece)
            if len(self._kept) < self._needed:
                return
            if self._digest is None:
                self._needed, self._digest = index_length(bytes(self._kept))
                self._kept.clear()
                self._check_size(HEAD.size + self._needed)
                continue
            self.index = index = decode_index(bytes(self._kept), self._digest)
            self._check_size(HEAD.size + self._needed + sum(map(frame_bytes, index.frames)))
            self._kept.clear()
            yield self.index
            self._frames = iter(self.index.contents)
            yield from self._next_frame()
        while piece:
            if self._frame is None:
                raise invalid("it goes on after its last block")
            run, piece = self._blocks(self._frame, piece)
            if run is None:
                return
            yield run
            if self._done == _count(self._frame):
                yield from self._next_frame()

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise MoveBatchTooLarge(self._most)

    def _keep(self, piece: memoryview) -> memoryview:
        """Keep what is still needed; return the rest."""
        missing = self._needed - len(self._kept)
        self._kept += piece[:missing]
        return piece[missing:]

    def _next_frame(self) -> Iterator[BlockRun]:
        """Go on to the next frame with bytes; yield those without."""
        self._frame, self._done = None, 0
        for frame in self._frames:
            if isinstance(frame, ZeroFrame):
                yield BlockRun(frame, frame.first, frame.count, _NOTHING)
            elif isinstance(frame, WholeFrame) and not frame.size:
                self._compare(frame, 0, _NOTHING)
                yield BlockRun(frame, 0, 1, _NOTHING)
            elif not isinstance(frame, AttributesFrame):
                self._frame = frame
                return
        self._is_complete = True

    def _blocks(
        self, frame: DataFrame | WholeFrame, piece: memoryview
    ) -> tuple[BlockRun | None, memoryview]:
        """Return the next blocks that are complete, None if no one is, and the rest of a piece."""
        first = _first(frame) + self._done
        if self._kept:
            self._needed = self._length(frame, self._done)
            piece = self._keep(piece)
            if len(self._kept) < self._needed:
                return None, piece
            block, self._kept = memoryview(self._kept), bytearray()
            summed = self._summed(frame, first, 1, block)
            self._compare(frame, self._done, block)
            self._done += 1
            return BlockRun(frame, first, 1, block, *summed), piece
        count, size = self._whole_blocks(frame, len(piece))
        if not count:
            self._kept += piece
            return None, piece[:0]
        summed = self._summed(frame, first, count, piece[:size])
        if isinstance(frame, WholeFrame):
            self._compare(frame, 0, piece[:size])
        else:
            self._compare_many(frame, count, piece[:size])
        self._done += count
        return BlockRun(frame, first, count, piece[:size], *summed), piece[size:]

    def _summed(
        self, frame: DataFrame | WholeFrame, first: int, count: int, blocks: memoryview
    ) -> tuple[int, int]:
        """Return from which block on the checksum counts, and the checksum."""
        number = 0 if isinstance(frame, WholeFrame) else frame.number
        return self._checksum.add(number, first, count, blocks)

    def _whole_blocks(self, frame: DataFrame | WholeFrame, size: int) -> tuple[int, int]:
        """Return how many blocks lie in so many bytes as a whole, and their bytes."""
        if isinstance(frame, WholeFrame):
            return (1, frame.size) if size >= frame.size else (0, 0)
        left = frame.count - self._done
        rest = (left - 1) * frame.block_size + frame.last
        if size >= rest:
            return left, rest
        count = size // frame.block_size
        return count, count * frame.block_size

    def _compare_many(self, frame: DataFrame, count: int, blocks: memoryview) -> None:
        """Compare consecutive blocks at once."""
        at = self._done * DIGEST
        if block_digests(blocks, frame.block_size) == frame.digests[at : at + count * DIGEST]:
            return
        for number in range(count):
            start = number * frame.block_size
            self._compare(frame, self._done + number, blocks[start : start + frame.block_size])

    @staticmethod
    def _length(frame: DataFrame | WholeFrame, number: int) -> int:
        """Return the bytes of one of the frame's blocks."""
        if isinstance(frame, WholeFrame):
            return frame.size
        return frame.last if number == frame.count - 1 else frame.block_size

    @staticmethod
    def _compare(frame: DataFrame | WholeFrame, number: int, block: Bytes) -> None:
        if isinstance(frame, WholeFrame):
            if block_digest(block) != frame.digest:
                raise damaged(display(frame.path))
            return
        at = number * DIGEST
        if block_digest(block) != frame.digests[at : at + DIGEST]:
            raise damaged(f"block {frame.first + number} of file {frame.number}")


def _count(frame: DataFrame | WholeFrame) -> int:
    return 1 if isinstance(frame, WholeFrame) else frame.count


def _first(frame: DataFrame | WholeFrame) -> int:
    return 0 if isinstance(frame, WholeFrame) else frame.first
