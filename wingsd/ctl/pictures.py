"""The tables that people see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from wingsd.ctl.printing import duration, plain, size, when

__all__ = ["disks", "facts", "past", "running", "state_of"]

Json = dict[str, Any]

_COLOURS = {"success": "green", "failure": "red"}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Names and sizes are to be copied: only the last column may be folded.
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    return table


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Return names, and what is said of them."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, what in pairs:
        table.add_row(name, what if isinstance(what, Text) else Text(plain(what)))
    return table


def disks(found: Iterable[Json]) -> Table:
    """Return what the filesystems have of room."""
    table = _table("disk", "free", "of", "path")
    for disk in found:
        fault = f" ({disk['error']})" if disk["error"] else ""
        free, total = size(disk["free_bytes"]), size(disk["total_bytes"])
        table.add_row(disk["purpose"], free, total, Text(plain(f"{disk['path']}{fault}")))
    return table


def running(found: Iterable[Json], now: float) -> Table:
    """Return the transfers under way."""
    table = _table("server", "way", "since", "bytes", "of", "rate", "doing")
    for each in found:
        table.add_row(
            each["server"],
            way(each),
            duration(now - each["begun"]),
            size(each["bytes"]),
            size(each["total_bytes"]),
            f"{size(each['bytes_per_second'])}/s",
            Text(plain(each["doing"])),
        )
    return table


def past(found: Iterable[Json]) -> Table:
    """Return the transfers that have ended."""
    table = _table("server", "way", "ended", "took", "bytes", "files", "outcome")
    for each in found:
        table.add_row(
            each["server"],
            way(each),
            when(each["ended"]),
            duration(each["ended"] - each["begun"]),
            size(each["bytes"]),
            "-" if each["files"] is None else str(each["files"]),
            state_of(each),
        )
    return table


def way(transfer: Json) -> str:
    """Return which way a transfer goes."""
    pooled = transfer.get("storage_pool")  # which a daemon of before does not tell
    how = " by hand" if transfer["by_hand"] else " in a pool" if pooled else ""
    return str(transfer["direction"]) + how


def state_of(transfer: Json) -> Text:
    """Return how a transfer ended, with the reason where it failed."""
    outcome = transfer["outcome"] or "unknown"
    text = Text(outcome, style=_COLOURS.get(outcome, ""))
    if transfer["reason"]:
        text.append(f": {plain(transfer['reason'])}", style="default")
    return text
