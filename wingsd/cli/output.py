"""Prints results: JSON for programs, tables and text for a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from wingsd.cli.client import Json
from wingsd.util.text import readable_size

_COLOURS = {"success": "green", "failure": "red", "cancelled": "yellow"}


def titled(*columns: str) -> Table:
    """Return an empty table with these columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Only the last column may wrap, so that names and sizes can be copied.
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    return table


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Return a table of names and values."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    return table


def disks(found: Iterable[Json]) -> Table:
    """Return a table of filesystems with their free space."""
    table = titled("disk", "free", "size", "path")
    for disk in found:
        fault = f" ({disk['error']})" if disk["error"] else ""
        free, total = size(disk["free_bytes"]), size(disk["total_bytes"])
        table.add_row(disk["purpose"], free, total, Text(plain(f"{disk['path']}{fault}")))
    return table


def running(found: Iterable[Json]) -> Table:
    """Return a table of the transfers in progress."""
    table = titled("server", "direction", "for", "bytes", "total", "rate", "left", "doing")
    for each in found:
        table.add_row(
            each["server"],
            direction_of(each),
            duration(time.time() - each["begun"]),
            size(each["bytes"]),
            size(each["total_bytes"]),
            f"{size(each['bytes_per_second'])}/s",
            left(each) or "-",
            Text(plain(doing(each))),
        )
    return table


def past(found: Iterable[Json]) -> Table:
    """Return a table of the transfers that have ended."""
    table = titled("server", "direction", "ended", "duration", "bytes", "files", "outcome")
    for each in found:
        table.add_row(
            each["server"],
            direction_of(each),
            when(each["ended"]),
            duration(each["ended"] - each["begun"]),
            size(each["bytes"]),
            "-" if each["files"] is None else str(each["files"]),
            state_of(each),
        )
    return table


def pairs(found: Iterable[Json]) -> Table:
    """Return a table of pairs with other nodes."""
    table = titled("pair", "direction", "servers", "bytes", "expires", "used", "other node")
    for each in found:
        servers, used = f"{each['servers']}", size(each["bytes"])
        if each["direction"] == "in":
            servers = f"{each['used_servers']} of {servers}"
            used = f"{size(each['used_bytes'])} of {used}"
        peer = each["peer"] or "not accepted yet"
        names = f"{each['url']}, which calls this node {peer}" if each["url"] else peer
        table.add_row(
            each["name"],
            each["direction"],
            servers,
            used,
            when(each["expires"]),
            when(each["used"]),
            Text(plain(names)),
        )
    return table


def backups(found: Iterable[Json]) -> Table:
    """Return a table of backups."""
    table = titled("backup", "server", "made", "bytes", "files", "checked", "state")
    for each in found:
        state = each["state"] or "no catalogue"
        if each.get("point") is not None:  # which an older daemon does not send
            state = f"point {each['point']} of its server's history"
        fault = f": {each['fault']}" if each["fault"] else ""
        table.add_row(
            each["backup"],
            each["server"] or "unknown",
            when(each["made"]),
            size(each["bytes"]),
            "-" if each["files"] is None else str(each["files"]),
            when(each["checked"]),
            Text(plain(f"{state}{fault}")),
        )
    return table


def usage(found: Iterable[Json]) -> Table:
    """Return a table of what servers use."""
    rates = ("read/s", "written/s", "in/s", "out/s")
    table = titled("cpu", "of", "memory", "of", "pressure", *rates, "server", "name")
    for each in found:
        table.add_row(
            percent(each["cpu_percent"]),
            percent(each["cpu_limit_percent"]),
            size(each["memory_bytes"]),
            size(each["memory_limit_bytes"]),
            worst(each["pressure_percent"]),
            size(each["read_bytes_per_second"]),
            size(each["written_bytes_per_second"]),
            size(each["received_bytes_per_second"]),
            size(each["sent_bytes_per_second"]),
            each["server"],
            Text(plain(each["name"])),
        )
    return table


def percent(value: float | None) -> str:
    """Return a percentage; a dash for None."""
    return "-" if value is None else f"{value:.0f} %"


def worst(pressure: Json) -> str:
    """Return the resource that is waited for most, and for how much of the time."""
    resource = max(pressure, key=lambda each: float(pressure[each]), default="")
    return f"{resource} {percent(pressure[resource])}" if resource else "-"


def direction_of(transfer: Json) -> str:
    """Return the direction of a transfer, and whether it is direct or within a storage pool."""
    pooled = transfer.get("storage_pool")  # older daemons do not send it
    kind = " direct" if transfer["by_hand"] else " in a pool" if pooled else ""
    return str(transfer["direction"]) + kind


def left(transfer: Json) -> str:
    """Return how long a transfer in progress takes from now on, at its rate; empty if unknown."""
    rate, total = transfer["bytes_per_second"], transfer["total_bytes"]
    if not rate or total is None or transfer["bytes"] >= total:
        return ""
    return duration((total - transfer["bytes"]) / rate)


def resumed(transfer: Json) -> str:
    """Return how much of a transfer in progress was there already; empty without.

    Older daemons do not tell it.
    """
    there, total = transfer.get("resumed_bytes", 0), transfer["total_bytes"]
    of = f" of {size(total)}" if total is not None else ""
    return f"resumed: {size(there)}{of} were there" if there else ""


def state_of(transfer: Json) -> Text:
    """Return the outcome of a transfer, with the reason if it has not succeeded."""
    outcome = transfer["outcome"] or "unknown"
    if ": seed-adopted: " in (transfer["reason"] or ""):
        outcome = "taken over"
    text = Text(outcome, style=_COLOURS.get(outcome, ""))
    if transfer["reason"]:
        text.append(f": {plain(transfer['reason'])}", style="default")
    return text


def doing(transfer: Json) -> str:
    """Return what is done for a transfer in progress, and how far a copy is that follows."""
    follow = transfer.get("follow")  # older daemons do not send it
    return str(transfer["doing"]) if follow is None else f"{transfer['doing']}: {_told(follow)}"


def _told(follow: Json) -> str:
    whole = follow["whole_at"]
    if whole is None and follow["missing_bytes"] is None:
        parts = ["no whole copy seen, what is missing is not known"]
    elif whole is None:
        parts = [f"no whole copy seen, {size(follow['missing_bytes'])} are missing"]
    else:
        changed, missing = size(follow["changed_bytes"]), size(follow["missing_bytes"])
        age = duration(time.time() - whole)
        parts = [f"the copy is {age} old", f"{changed} had changed", f"{missing} are missing"]
    if follow["predicted_downtime"] is not None:
        parts.append(f"about {follow['predicted_downtime']:.1f} s of downtime")
    if follow["stop_at"] is not None:
        parts.append(f"moved at {when(follow['stop_at'])}")
    if follow["trouble"]:
        parts.append(f"the last round has failed: {plain(follow['trouble'])}")
    return ", ".join(parts)


#: Width of output that is not a terminal, so that no line wraps.
_WIDE = 500
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


#: Adds the option `--json` to a command.
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; its format is in wingsctl(1)."
)


def print_json(value: object, *, line: bool = False) -> None:
    """Print a value as JSON, with `line` on a single line."""
    click.echo(json.dumps(value, indent=None if line else 2))


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return the console for text."""
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
    """Print texts and tables; without a terminal, without trailing spaces."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def answer(value: object, as_json: bool, *parts: RenderableType) -> None:
    """Print a value as JSON, or else these texts and tables."""
    if as_json:
        print_json(value)
    else:
        show(*parts)


def plain(text: object) -> str:
    """Return a text on one line, without control characters."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def size(bytes_: float | None) -> str:
    """Return a number of bytes with a unit; a dash for None."""
    return "-" if bytes_ is None else readable_size(bytes_)


def duration(seconds: float) -> str:
    """Return a number of seconds as text, such as "3 min 20 s"."""
    whole = max(int(seconds), 0)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def when(at: float | None) -> str:
    """Return Unix time as local time; "never" for None."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
