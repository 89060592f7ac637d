"""How a transfer speaks to people: its lines in a server's console, and the progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from wingsd.util.text import escaped

__all__ = [
    "DESTINATION",
    "SOURCE",
    "console_line",
    "progress_bar",
    "readable_size",
    "readable_time",
    "summary",
]

#: Who speaks. The form of the lines is what users of Wings know.
SOURCE = "Source Node"
DESTINATION = "Destination Node"

_YELLOW_BOLD = "\x1b[33m\x1b[1m"
_RESET = "\x1b[0m"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BAR = 25
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_MINUTE = 60
_HOUR = 3600


def console_line(now: float, node: str, text: str) -> str:
    """Return a line of the node `node` for the console; `now` in seconds since the epoch.

    `text` may quote another node or an archive.
    """
    at = datetime.fromtimestamp(now, UTC)
    # RFC 1123 in English, whatever the locale.
    day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
    stamp = f"{day}, {at.day:02} {month} {at:%Y %H:%M:%S} UTC"
    return f"{_YELLOW_BOLD}{stamp} [Transfer System] [{node}]:{_RESET} {escaped(text)}"


def readable_size(size: float) -> str:
    """Return a number of bytes with a unit, such as "1.5 GiB"."""
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size /= _STEP
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{int(size)} B"


def readable_time(seconds: float) -> str:
    """Return a time in whole seconds, minutes or hours, such as "10 min"; rounded down."""
    for unit, name in ((_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit or seconds == unit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds)} s"


def progress_bar(done: int, total: int) -> str:
    """Return `[=====     ] 1.5 GiB / 18.2 GiB` for so many bytes of so many.

    Where it is not known of how many (0), only what is done.
    """
    if not total:
        return f"{readable_size(done)} of an unknown total"
    # A tree may grow between being measured and being read.
    filled = min(done * _BAR // total, _BAR)
    return f"[{'=' * filled:{_BAR}}] {readable_size(done)} / {readable_size(max(total, done))}"


def summary(
    count: int | None,
    receiving: Sequence[str],
    sending: Sequence[str],
    received: int = 0,
    sent: int = 0,
) -> str:
    """Return in a line what a node does that has `count` servers, None while it does not know.

    `receiving` and `sending` are the UUIDs of those under way, `received` and `sent` how many
    bytes of them have come and gone so far.
    """
    if count is None:
        servers = "waits for the Panel to tell which servers it has"
    else:
        servers = _counted(count)
    ways = [
        f"{way} {uuids[0] if len(uuids) == 1 else _counted(len(uuids))}{_so_far(moved)}"
        for way, uuids, moved in (("receiving", receiving, received), ("sending", sending, sent))
        if uuids
    ]
    return f"{servers}; {', '.join(ways) or 'no transfer under way'}"


def _so_far(moved: int) -> str:
    return f" ({readable_size(moved)} so far)" if moved else ""


def _counted(count: int) -> str:
    return f"{count} server{'' if count == 1 else 's'}"
