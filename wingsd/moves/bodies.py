"""The bodies of requests with batches: blocks of a size that is sent well, compressed or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from attrs import frozen

from wingsd.moves.digests import Bytes
from wingsd.moves.filling import Batch
from wingsd.moves.zstd import SAMPLE, deflated, shrinks

__all__ = ["BatchBody", "batch_body"]

_LEAST = 64 << 10
_MOST = 256 << 10


@frozen(eq=False, repr=False)
class BatchBody:
    """What is sent of a batch, and whether it is compressed; `data` are its bytes of files."""

    number: int
    data: int
    blocks: list[bytes | memoryview]
    zstd: bool

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(len(block) for block in self.blocks)


def batch_body(batch: Batch, *, zstd: bool, level: int = 1) -> BatchBody:
    """Return the body of a batch; with `zstd` it is compressed if its beginning shrinks."""
    pieces: Iterator[Bytes] = batch.pieces()
    if zstd:
        sample, taken = bytearray(), []
        for piece in pieces:
            taken.append(piece)
            sample += piece[: SAMPLE - len(sample)]
            if len(sample) == SAMPLE:
                break
        zstd = shrinks(sample)
        pieces = chain(taken, pieces)
    size = sum(len(piece) for piece in batch.data)
    blocks = list(_blocks(deflated(pieces, level) if zstd else pieces))
    return BatchBody(batch.index.number, size, blocks, zstd)


def _blocks(pieces: Iterable[Bytes]) -> Iterator[bytes | memoryview]:
    """Join small pieces, so that each costs less, and cut large ones; others are not copied."""
    joined = bytearray()
    for piece in pieces:
        is_small = len(piece) < _LEAST
        if is_small:
            joined += piece
        if joined and not (is_small and len(joined) < _LEAST):
            yield bytes(joined)
            joined.clear()
        if not is_small:
            view = memoryview(piece)
            for at in range(0, len(view), _MOST):
                yield view[at : at + _MOST]
    if joined:
        yield bytes(joined)
