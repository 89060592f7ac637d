"""The digests of a file's blocks: those that are known, and which are not.

They are held in pages of 256. Only pages that were changed are in memory until they are stored,
where there is a store; long runs of equal digests, those of zeros, share their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from wingsd.moves.digests import DIGEST, UNKNOWN, zero_digest

__all__ = ["PAGE", "BlockDigests", "block_count"]

PAGE = 256
"""Digests of one page."""

_NO_CUT = 1 << 62


def block_count(size: int, block_size: int) -> int:
    """Return the number of blocks of a file."""
    return -(-size // block_size)


@lru_cache(maxsize=8)
def _zero_page(block_size: int) -> bytes:
    return zero_digest(block_size) * PAGE


class BlockDigests:
    """The digests of `count` blocks, none of them known at first."""

    __slots__ = ("_cut", "_pages", "_stored", "count", "missing")

    def __init__(self, count: int) -> None:
        #: The number of blocks, and how many of them are unknown.
        self.count = self.missing = count
        #: Pages that were changed, None for those of which nothing is known.
        self._pages: dict[int, bytes | bytearray | None] = {}
        #: Returns a page that is stored. From the page `_cut` on there is none.
        self._stored: Callable[[int], bytes | None] | None = None
        self._cut = _NO_CUT

    @classmethod
    def loaded(
        cls, count: int, missing: int, first: bytes, stored: Callable[[int], bytes | None] | None
    ) -> BlockDigests:
        """Return digests that were stored: all of them in `first`, or pages of `stored`."""
        made = cls(count)
        made.missing = missing
        if count <= PAGE:
            made._pages[0] = first or None
        else:
            made._stored = stored
        return made

    def take_changes(self) -> tuple[int | None, list[tuple[int, bytes | None]]]:
        """Return pages that were changed since they were stored, to be stored now.

        The first number tells from which page on those that are stored are void.
        """
        cut = None if self._cut == _NO_CUT else self._cut
        found = [(n, None if page is None else bytes(page)) for n, page in self._pages.items()]
        return cut, found

    def were_stored(self, stored: Callable[[int], bytes | None]) -> None:
        """Have memory of changes no more: they can be read by `stored`."""
        self._pages.clear()
        self._stored, self._cut = stored, _NO_CUT

    def get(self, first: int, count: int) -> bytes:
        """Return joined digests, `UNKNOWN` for those that are not known."""
        if self.count == 1:  # most files have one block
            only = self._page(0) if count else b""
            return UNKNOWN if only is None else bytes(only)
        found = []
        for page, start, end in self._parts(first, count):
            held = self._page(page)
            length = (end - start) * DIGEST
            found.append(
                bytes(length) if held is None else bytes(held[start * DIGEST : end * DIGEST])
            )
        return b"".join(found)

    def set(self, first: int, digests: bytes) -> None:
        """Set the digests of consecutive blocks; `UNKNOWN` makes one unknown."""
        if self.count == 1:
            self._pages[0] = digests
            self.missing = int(digests == UNKNOWN)
            return
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
            if self._page(page) is not None:
                self._put(page, start, bytes((end - start) * DIGEST))

    def resize(self, count: int) -> None:
        """Cut blocks off, or add unknown ones."""
        if count < self.count:
            self.forget(count, self.count - count)
            self.missing -= self.count - count
            end = -(-count // PAGE)
            self._cut = min(self._cut, end)
            for page in [page for page in self._pages if page >= end]:
                del self._pages[page]
        else:
            self.missing += count - self.count
        self.count = count

    def portions(self) -> Iterator[bytes]:
        """Yield all digests, in portions."""
        for at in range(0, self.count, PAGE):
            yield self.get(at, min(PAGE, self.count - at))

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Yield runs of known blocks: the first one, and the digests of at most 256."""
        for at in range(0, self.count, PAGE):
            if self._page(at // PAGE) is None:
                continue
            digests = self.get(at, min(PAGE, self.count - at))
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

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the pages; yield each page, and start and end in it."""
        end = first + count
        while first < end:
            page, start = divmod(first, PAGE)
            stop = min(PAGE, start + end - first)
            yield page, start, stop
            first += stop - start

    def _page(self, number: int) -> bytes | bytearray | None:
        """Return a page as long as it is now, None where nothing of it is known."""
        if number in self._pages:
            page = self._pages[number]
        elif self._stored is None or number >= self._cut:
            return None
        else:
            page = self._stored(number)
        length = min(PAGE, self.count - number * PAGE) * DIGEST
        if page is None or len(page) == length:
            return page
        # the file was resized meanwhile; what was cut off was forgotten
        return page[:length].ljust(length, b"\0")

    def _put(self, number: int, start: int, digests: bytes) -> None:
        page = self._page(number)
        length = min(PAGE, self.count - number * PAGE) * DIGEST
        if len(digests) == length:
            before, self._pages[number] = page, digests
        else:
            before = None if page is None else page[start * DIGEST : start * DIGEST + len(digests)]
            if not isinstance(page, bytearray):
                page = bytearray(page or length)
            page[start * DIGEST : start * DIGEST + len(digests)] = digests
            self._pages[number] = page
        self.missing += _known(before) - _known(digests)


def _known(digests: bytes | bytearray | None) -> int:
    if digests is None:
        return 0
    count = len(digests) // DIGEST
    if UNKNOWN not in digests:
        return count
    return sum(digests[n : n + DIGEST] != UNKNOWN for n in range(0, len(digests), DIGEST))
