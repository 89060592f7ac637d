"""`wingsctl history`: points in time of servers' files, listed, made, removed and verified."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wingsd.cli import output
from wingsd.cli.backups import follows
from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.output import duration, json_option, plain, print_json, size, when
from wingsd.cli.parameters import OPTIONAL_SERVER, SERVER, ServerGroup, daemon_client

#: Seconds between two looks at work that is under way, and at what `--live` shows.
POLL_INTERVAL = 0.5
LIVE_INTERVAL = 2.0


@click.group(cls=ServerGroup, invoke_without_command=True)
@click.argument("server", type=OPTIONAL_SERVER, metavar="[UUID]", required=False)
@click.option("--live", "is_live", is_flag=True, help="Update until Ctrl-C.")
@json_option
@click.pass_context
def history(context: click.Context, *, server: str | None, is_live: bool, as_json: bool) -> None:
    """List the histories on this node, or the points of a server's history.

    Points are made where system.history says how often. Files that were changed each time while
    they were read are unsettled: a point has them as the point before it. Only in a point of a
    stopped server do all files belong to the same moment.
    """
    if context.invoked_subcommand is not None:
        return
    client, console = daemon_client(), output.console()

    def ask() -> Json:
        found: Json = client.ask("GET", f"history/{server}" if server else "history")
        return found

    if is_live and not as_json and console.is_terminal:
        with suppress(KeyboardInterrupt), Live(console=console, screen=True) as screen:
            while True:
                screen.update(Group(*_shown(server, ask())), refresh=True)
                time.sleep(LIVE_INTERVAL)
    elif as_json:
        with suppress(KeyboardInterrupt):
            print_json(ask(), line=is_live)
            while is_live:
                time.sleep(LIVE_INTERVAL)
                print_json(ask(), line=True)
    else:
        output.show(*_shown(server, ask()))


def _shown(server: str | None, found: Json) -> list[RenderableType]:
    if not server:
        if not found["histories"]:
            return ["no histories on this node: system.history.every is 0"]
        return [_histories(found["histories"])]
    facts, points = output.facts(_facts(found)), found["points"]
    if points is None:
        return [facts, "", "its points are shown when the work on it is over"]
    return [facts, "", _points(points) if points else "no points yet", *_named(points)]


def _histories(found: list[Json]) -> Table:
    table = output.titled("server", "newest", "points", "bytes", "name", "state")
    for each in found:
        table.add_row(
            each["server"],
            when(each["newest"]) if each["newest"] else "-",
            "-" if each["points"] is None else str(each["points"]),
            size(each["bytes"]) if each["bytes"] else "-",
            Text(plain(each["name"] or "-")),
            Text(plain(_state(each))),
        )
    return table


def _state(found: Json) -> str:
    if found["left"] is not None:
        return follows(found["left"], found["bytes"] or 0)
    if found["name"] is None:
        return "its server is not on this node"
    if found["damaged"]:
        return f"{found['damaged']} points are DAMAGED"
    if found["trouble"]:
        return f"NO point can be made: {found['trouble']}"
    if not found["every_seconds"]:
        backups = found.get("names") or 0  # which an older daemon does not send
        return f"{backups} backups; no points by the clock" if backups else "no points are made"
    return "LATE" if found["late"] else "up to date"


def _facts(found: Json) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [("server", found["server"])]
    if found["name"] is not None:
        facts.append(("name", found["name"]))
    if found["every_seconds"]:
        facts.append(("a point", f"every {duration(found['every_seconds'])}"))
    facts.append(("state", _state(found)))
    if found["looked"] is not None:
        ago = duration(time.time() - found["looked"])
        took = f"{found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of CPU"
        facts.append(("last look", f"{ago} ago, took {took}"))
    if found["busy_seconds"] is not None:
        facts.append(
            ("in use", f"for {duration(found['busy_seconds'])}: a point is made, or read")
        )
    facts.append(("bytes", size(found["bytes"])))
    if found["unreadable"]:
        numbers = ", ".join(map(str, found["unreadable"]))
        facts.append(("UNREADABLE", f"points {numbers}: nothing of them can be used"))
    return facts


def _points(found: list[Json]) -> Table:
    table = output.titled("point", "time", "server", "files", "bytes", "stored", "unsettled", "")
    for each in found:
        table.add_row(
            str(each["number"]),
            when(each["time"]),
            each["label"],
            str(each["files"]),
            size(each["bytes"]),
            size(each["stored_bytes"]),
            str(each["unsettled"]),
            _mark(each),
        )
    return table


def _mark(point: Json) -> str:
    count = len(point.get("backups", ()))  # which an older daemon does not send
    backups = f"{count} backups" if count > 1 else "backup" if count else ""
    return ", ".join(filter(None, ("DAMAGED" if point["damaged"] else "", backups)))


def _named(points: list[Json]) -> list[str]:
    """Return lines with the damaged files, and with the unsettled ones of the newest point."""
    lines = [
        f"point {each['number']} is DAMAGED: {_files(each['damaged_files']) or 'all of it'}"
        for each in points
        if each["damaged"]
    ]
    if points and points[0]["unsettled"]:
        lines.append(f"unsettled in the newest point: {_files(points[0]['unsettled_files'])}")
    return ["", *lines] if lines else []


def _files(paths: list[str]) -> str:
    return ", ".join(map(plain, paths))


@history.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
def make(*, server: str, as_json: bool) -> None:
    """Make a point of a server's files now, whether it runs or not."""
    found = _ordered(server, lambda client: client.ask("POST", f"history/{server}"), as_json)
    made = f"point {found['point']} is made"
    text = "nothing has changed since the newest point" if found["point"] is None else made
    output.answer(found, as_json, f"{server}: {text}")


@history.command()
@click.argument("server", type=SERVER, metavar="UUID")
@click.argument("point", type=click.IntRange(min=1), required=False)
@click.option("--all", "all_of_them", is_flag=True, help="The whole history, with all its points.")
@click.option("--yes", is_flag=True, help="Do not ask before the whole history is removed.")
@json_option
def delete(*, server: str, point: int | None, all_of_them: bool, yes: bool, as_json: bool) -> None:
    """Remove a point of a server's history; the others stay as they are.

    The newest point cannot be removed alone, and one that is a backup is removed by deleting that
    in the Panel. A history for which points are still made begins again after it was removed.
    """
    if (point is None) != all_of_them:
        raise click.UsageError("name a point by its number, or the whole history with --all")
    backups = ""
    if all_of_them:
        found = daemon_client().ask("GET", f"backups?server={server}")["backups"]
        count = sum(each.get("point") is not None for each in found)
        backups = f", and {count} backups with it" if count else ""
    if all_of_them and not yes:
        asked = f"Remove the history of {server} with all its points{backups}?"
        click.confirm(asked, abort=True, err=True)
    path = f"history/{server}" if point is None else f"history/{server}/points/{point}"
    found = _ordered(server, lambda client: client.ask("DELETE", path), as_json)
    text = f"its history is removed{backups}" if point is None else f"point {point} is removed"
    output.answer(found, as_json, f"{server}: {text}")


@history.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
def verify(*, server: str, as_json: bool) -> None:
    """Read a server's history to its end, and say whether it is whole.

    All files of all points are compared with their digests. The exit status is 1 if one is
    damaged.
    """
    path = f"history/{server}/verify"
    found = _ordered(server, lambda client: client.ask("POST", path), as_json)
    damaged = found["damaged"]
    lines = [
        f"point {number} is DAMAGED: {_files(files) or 'all of it'}"
        for number, files in sorted(damaged.items(), key=lambda each: int(each[0]))
    ]
    output.answer(found, as_json, *(lines or [f"{server}: its history is whole"]))
    if damaged:
        raise CtlError(
            "the history is damaged",
            "points and files that are not named can be used; see the disk's health",
            Exit.FAILED,
        )


def _ordered(server: str, order: Callable[[ControlClient], Json], quiet: bool) -> Json:
    """Order work on a history, and wait for its end. Raises `CtlError` where it fails."""
    client, began = daemon_client(), time.monotonic()
    found = order(client)
    with output.console(stderr=True, quiet=quiet).status("working") as shown:
        while not found["over"]:
            shown.update(f"working for {duration(time.monotonic() - began)}")
            time.sleep(POLL_INTERVAL)
            found = client.ask("GET", f"history/{server}/task")
    if found["error"]:
        raise CtlError(found["error"], found["detail"], Exit.FAILED, found["code"])
    return found
