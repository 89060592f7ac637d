"""Prints results: JSON for programs, tables and text for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from wingsd.transfers.formatting import readable_size

__all__ = [
    "console",
    "disks",
    "duration",
    "facts",
    "json_option",
    "past",
    "plain",
    "print_json",
    "running",
    "show",
    "size",
    "state_of",
    "when",
]

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


F = TypeVar("F", bound=Callable[..., Any])

#: Columns of a line that goes to no terminal: nothing of it is to be cut or folded.
_WIDE = 500
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def json_option(command: F) -> F:
    """Give a command the option `--json`."""
    help_ = "Print JSON, for programs; its form is in wingsctl(1)."
    return click.option("--json", "as_json", is_flag=True, help=help_)(command)


def print_json(value: object, *, line: bool = False) -> None:
    """Print a value as JSON; as one `line` where more follow."""
    click.echo(json.dumps(value, indent=None if line else 2))


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return where text goes."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        quiet=quiet,
    )


def show(*parts: RenderableType) -> None:
    """Print texts and tables; where no terminal is, without blanks at the ends of lines."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def plain(text: object) -> str:
    """Return a text as one line without control characters: it may come from anybody."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def size(bytes_: float | None) -> str:
    """Return a number of bytes with a unit; a dash where there is none."""
    return "-" if bytes_ is None else readable_size(bytes_)


def duration(seconds: float) -> str:
    """Return a number of seconds for people, such as "3 min 20 s"."""
    whole = max(int(seconds), 0)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def when(at: float | None) -> str:
    """Return a time, seconds since the epoch, in local time; "never" for None."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
