"""Lines of a transfer in the console of its server: its steps, warnings and progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import formatdate

import attrs

from wingsd.util.text import escaped, readable_size, readable_time

#: The node that prints a line. The form of the lines is the one that users of Wings know.
SOURCE = "Source Node"
DESTINATION = "Destination Node"

_YELLOW_BOLD = "\x1b[33m\x1b[1m"
_RESET = "\x1b[0m"
_BAR = 25


def console_line(now: float, node: str, text: str) -> str:
    """Return a line of the node `node` for the console; `now` in seconds since the epoch.

    `text` may quote another node or an archive.
    """
    # RFC 1123 in English, whatever the locale.
    stamp = formatdate(now, usegmt=True).replace("GMT", "UTC")
    return f"{_YELLOW_BOLD}{stamp} [Transfer System] [{node}]:{_RESET} {escaped(text)}"


def progress_bar(done: int, total: int) -> str:
    """Return `[=====     ] 1.5 GiB / 18.2 GiB` for so many bytes of so many.

    Where it is not known of how many (0), only what is done.
    """
    if not total:
        return f"{readable_size(done)} of an unknown total"
    # A tree may grow between being measured and being read.
    bar = filled_bar(done, total)
    return f"{bar} {readable_size(done)} / {readable_size(max(total, done))}"


def filled_bar(done: int, total: int) -> str:
    """Return `[=====     ]` for so much of so much; full for nothing of nothing."""
    filled = min(done * _BAR // total, _BAR) if total else _BAR
    return f"[{'=' * filled:{_BAR}}]"


class ProgressMeter:
    """Counts bytes, and the seconds between `start` and `stop`.

    `seconds` is the clock, and `count` returns the bytes moved so far.
    """

    def __init__(self, seconds: Callable[[], float], count: Callable[[], int]) -> None:
        #: The bytes that were there already when a move was resumed last.
        self.resumed = 0
        self._clock = seconds
        self._count = count
        self._begun: float | None = None
        self._ended: float | None = None
        self._rate_since = 0.0
        self._rate_from = 0

    @property
    def done(self) -> int:
        """The number of bytes moved so far."""
        return self._count()

    def start(self) -> None:
        """Begin to count the time."""
        self._begun = self._clock()
        self.skip()

    def skip(self, there: int = 0) -> None:
        """Leave out of the rate what is done by now: it was there, or took another time.

        Also what is `there`, and is counted as done only when it is passed over.
        """
        self._rate_since, self._rate_from = self._clock(), max(self.done, there)

    def stop(self) -> None:
        """Stop the time."""
        self._ended = self._clock()

    @property
    def seconds(self) -> float:
        """The time taken so far, 0 before `start`."""
        if self._begun is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._begun

    @property
    def rate(self) -> float:
        """Bytes a second on average, since `start` or `skip`."""
        if self._begun is None:
            return 0.0
        seconds = (self._clock() if self._ended is None else self._ended) - self._rate_since
        return max(self.done - self._rate_from, 0) / seconds if seconds > 0 else 0.0

    def pace(self, total: int) -> str:
        """Return `, 11.2 MiB/s, 3 min left` for what is to be `total` bytes; what is known of it.

        To be put behind how far it is.
        """
        rate, left = self.rate, total - self.done
        if not rate:
            return ""
        text = f", {readable_size(rate)}/s"
        return f"{text}, {readable_time(left / rate)} left" if left > 0 else text


@attrs.frozen(eq=False, repr=False)
class UploadFigures:
    """The bytes of a server that were read, of `total`, and sent, and the number of its files."""

    read: int
    sent: int
    total: int
    files: int

    def encode(self) -> str:
        """Return the JSON of Calagopus' nodes of 2026, with the names of those before as well."""
        return json.dumps(
            {
                "archive_bytes_processed": self.read,
                "network_bytes_processed": self.sent,
                "bytes_total": self.total,
                "files_processed": self.files,
                "archive_progress": self.read,
                "network_progress": self.sent,
                "total": self.total,
            }
        )
