"""The digests of a file's blocks: those that are known, and which are not.

Memory grows with the blocks that are known, not with sizes that are told: 16 bytes for each, and 8
for 256 unknown ones. Long runs of equal digests, those of zeros, share their memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from wingsd.moves.digests import DIGEST, UNKNOWN, zero_digest

__all__ = ["BlockDigests", "block_count"]

_PAGE = 256


def block_count(size: int, block_size: int) -> int:
    """Return the number of blocks of a file."""
    return -(-size // block_size)


@lru_cache(maxsize=8)
def _zero_page(block_size: int) -> bytes:
    return zero_digest(block_size) * _PAGE


class BlockDigests:
    """The digests of `count` blocks, none of them known at first."""

    __slots__ = ("_pages", "count", "missing")

    def __init__(self, count: int) -> None:
        #: The number of blocks, and how many of them are unknown.
        self.count = self.missing = count
        self._pages: list[bytes | bytearray | None] = [None] * -(-count // _PAGE)

    def get(self, first: int, count: int) -> bytes:
        """Return joined digests, `UNKNOWN` for those that are not known."""
        found = []
        for page, start, end in self._parts(first, count):
            held = self._pages[page]
            length = (end - start) * DIGEST
            found.append(
                bytes(length) if held is None else bytes(held[start * DIGEST : end * DIGEST])
            )
        return b"".join(found)

    def set(self, first: int, digests: bytes) -> None:
        """Set the digests of consecutive blocks; `UNKNOWN` makes one unknown."""
        at = 0
        for page, start, end in self._parts(first, len(digests) // DIGEST):
            length = (end - start) * DIGEST
            self._put(page, start, digests[at : at + length])
            at += length

    def set_zeros(self, first: int, count: int, block_size: int, last: int) -> None:
        """Set the digests of blocks of zeros; the last one is `last` bytes long."""
        if last != block_size:
            self.set(first + count - 1, zero_digest(last))
            count -= 1
        shared = _zero_page(block_size)
        for page, start, end in self._parts(first, count):
            self._put(page, start, shared[: (end - start) * DIGEST])

    def forget(self, first: int, count: int) -> None:
        """Make blocks unknown."""
        for page, start, end in self._parts(first, count):
            if self._pages[page] is not None:
                self._put(page, start, bytes((end - start) * DIGEST))

    def resize(self, count: int) -> None:
        """Cut blocks off, or add unknown ones."""
        if count < self.count:
            self.forget(count, self.count - count)
            self.missing -= self.count - count
            del self._pages[-(-count // _PAGE) :]
            if count % _PAGE and (last := self._pages[-1]) is not None:
                self._pages[-1] = bytearray(last[: count % _PAGE * DIGEST])
        else:
            self.missing += count - self.count
            more = -(-count // _PAGE) - len(self._pages)
            if self._pages and (last := self._pages[-1]) is not None:
                length = min(_PAGE, count - (len(self._pages) - 1) * _PAGE) * DIGEST
                self._pages[-1] = bytearray(last.ljust(length, b"\0"))
            self._pages += [None] * more
        self.count = count

    def portions(self) -> Iterator[bytes]:
        """Yield all digests, in portions."""
        for at in range(0, self.count, _PAGE):
            yield self.get(at, min(_PAGE, self.count - at))

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Yield runs of known blocks: the first one, and the digests of at most 256."""
        for at in range(0, self.count, _PAGE):
            if self._pages[at // _PAGE] is None:
                continue
            digests = self.get(at, min(_PAGE, self.count - at))
            if UNKNOWN not in digests:
                yield at, digests
                continue
            each = [digests[n : n + DIGEST] for n in range(0, len(digests), DIGEST)]
            start = None
            for number, digest in enumerate([*each, UNKNOWN]):
                if digest != UNKNOWN and start is None:
                    start = number
                elif digest == UNKNOWN and start is not None:
                    yield at + start, b"".join(each[start:number])
                    start = None

    def copy(self) -> BlockDigests:
        """Return digests of their own."""
        made = BlockDigests(0)
        made.count, made.missing = self.count, self.missing
        made._pages = [
            bytearray(page) if isinstance(page, bytearray) else page for page in self._pages
        ]
        return made

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the pages; yield each page, and start and end in it."""
        end = first + count
        while first < end:
            page, start = divmod(first, _PAGE)
            stop = min(_PAGE, start + end - first)
            yield page, start, stop
            first += stop - start

    def _put(self, number: int, start: int, digests: bytes) -> None:
        length = min(_PAGE, self.count - number * _PAGE) * DIGEST
        page = self._pages[number]
        if len(digests) == length:
            before, self._pages[number] = page, digests
        else:
            before = None if page is None else page[start * DIGEST : start * DIGEST + len(digests)]
            if not isinstance(page, bytearray):
                page = self._pages[number] = bytearray(page or length)
            page[start * DIGEST : start * DIGEST + len(digests)] = digests
        self.missing += _known(before) - _known(digests)


def _known(digests: bytes | bytearray | None) -> int:
    if digests is None:
        return 0
    count = len(digests) // DIGEST
    if UNKNOWN not in digests:
        return count
    return sum(digests[n : n + DIGEST] != UNKNOWN for n in range(0, len(digests), DIGEST))
