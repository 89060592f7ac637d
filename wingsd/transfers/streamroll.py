"""Which streams of one transfer have come, and which may: the rules, apart from all sockets.

A server may come in several requests at a time. The first has `Multiplex-Stream-Count` with the
number of the others, itself not counted; each of those has `Multiplex-Stream` with its own number,
from 0 on. They may come in any order, since they are sent at the same time. The source of this is
what Calagopus' nodes do. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from wingsd.errors import BadRequest, StreamMissing, StreamRefused

__all__ = ["COUNT", "FIRST", "NUMBER", "StreamRoll", "name_of"]

#: The headers.
COUNT = "Multiplex-Stream-Count"
NUMBER = "Multiplex-Stream"
#: What the first request is called to people.
FIRST = "the first request"

_MOST_DIGITS = 6


def name_of(number: int | None) -> str:
    """Return what a stream is called to people; the first request has no number."""
    return FIRST if number is None else f"stream {number}"


class StreamRoll:
    """The streams of one transfer; `most` are as many as this node takes beside the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: set[int] = set()
        #: How many others there are; None until the first has told.
        self.others: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all are here."""
        return self.others is not None and len(self._numbers) == self.others

    def first(self, count: str) -> None:
        """The first request has come, with `count` in its header, which it may leave out.

        Raises `StreamRefused`.
        """
        if self.others is not None:
            raise StreamRefused(f"{FIRST} came twice; each stream is sent once")
        # From here on it has come, whatever it says.
        self.others = 0
        others = _number(COUNT, count or "0")
        if others > self._most:
            raise StreamRefused(
                f"it is to come in {others} streams beside the first, and this node takes "
                f"{self._most} (system.transfers.streams.most)"
            )
        self.others = others
        for number in sorted(self._numbers):
            self._expect(number)

    def further(self, header: str, count: str = "") -> int:
        """Another stream has come, with `header`; return its number.

        `count` is what it has in the first one's header. Raises `StreamRefused`.
        """
        number = _number(NUMBER, header)
        if count:
            raise StreamRefused(f"a request has {COUNT} or {NUMBER}, and not both of them")
        self._expect(number)
        if number in self._numbers:
            raise StreamRefused(f"{name_of(number)} came twice; each stream is sent once")
        self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """A stream is not here any more, and none has been read yet."""
        self._numbers.discard(number)

    def missing(self, within: float) -> BadRequest:
        """Return what is said where some have not come `within` so many seconds."""
        if self.others is None:
            what = f"{FIRST}, the one with {COUNT},"
        else:
            what = ", ".join(map(name_of, self._absent()))
        return StreamMissing(
            f"{what} did not come within {within:g} s (system.transfers.streams.within)"
        )

    def _absent(self) -> Iterator[int]:
        return (number for number in range(self.others or 0) if number not in self._numbers)

    def _expect(self, number: int) -> None:
        if self.others is None:
            if number >= self._most:
                raise StreamRefused(
                    f"there is {name_of(number)}, counted from 0, and this node takes "
                    f"{self._most} beside the first (system.transfers.streams.most)"
                )
        elif number >= self.others:
            known = f"0 to {self.others - 1}" if self.others else "none"
            raise StreamRefused(f"{name_of(number)} came, and {FIRST} tells of {known}")


def _number(header: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise StreamRefused(f"the header {header} is {text[:40]!r}: expected a number")
    return int(text)
