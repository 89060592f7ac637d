"""Decodes a batch from pieces of any size, sans-IO. Every block is compared with its digest.

Blocks that lie within one piece are handed on as views of it, several together, without a copy.
Memory holds the index, and one block that lies in two pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from wingsd.moves.batch import HEAD, Index, decode_index, index_length
from wingsd.moves.digests import DIGEST, Bytes, block_digest
from wingsd.moves.errors import damaged, invalid
from wingsd.moves.frames import Content, DataFrame, WholeFrame, ZeroFrame
from wingsd.moves.zstd import Inflater
from wingsd.util.text import display

__all__ = ["BatchReader", "BlockRun"]


@frozen(eq=False, repr=False)
class BlockRun:
    """Consecutive blocks that have arrived and fit their digests.

    `first` and `count` are blocks; `data` is valid until the next event is asked for. A `ZERO`
    frame is one run, without data.
    """

    frame: Content
    first: int
    count: int
    data: memoryview


_NOTHING = memoryview(b"")


class BatchReader:
    """Reads one batch: `feed` each piece, then `finish`. Of no more use after an error.

    With `zstd` the batch arrives compressed.
    """

    def __init__(self, *, zstd: bool = False) -> None:
        #: The index, once it has arrived.
        self.index: Index | None = None
        self._inflater = Inflater() if zstd else None
        self._kept = bytearray()
        self._needed = HEAD.size
        self._digest: bytes | None = None
        self._frames: Iterator[Content] = iter(())
        #: The frame whose blocks come next, and how many of its blocks have come.
        self._frame: DataFrame | WholeFrame | None = None
        self._done = 0
        self._is_complete = False

    def feed(self, data: Bytes) -> Iterator[Index | BlockRun]:
        """Yield the index, and then runs of blocks. To be iterated to its end.

        Raises BatchInvalid, BatchDamaged, FrameRefused and MoveVersionUnknown.
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
                continue
            self.index = decode_index(bytes(self._kept), self._digest)
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
            else:
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
            block, self._kept = self._kept, bytearray()
            self._compare(frame, self._done, block)
            self._done += 1
            return BlockRun(frame, first, 1, memoryview(block)), piece
        at = start = 0
        begun = self._done
        while self._done < _count(frame):
            at = start + self._length(frame, self._done)
            if at > len(piece):
                break
            self._compare(frame, self._done, piece[start:at])
            self._done += 1
            start = at
        if self._done == begun:
            self._kept += piece
            return None, piece[:0]
        return BlockRun(frame, first, self._done - begun, piece[:start]), piece[start:]

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
