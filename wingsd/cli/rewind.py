"""`wingsctl rewind`: a server's files become what they were at a point of its history."""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime, timedelta

import click

from wingsd.cli import output
from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.output import json_option, plain, print_json, size, when
from wingsd.cli.parameters import SERVER, daemon_client

#: Seconds between two looks at a rewind.
POLL_INTERVAL = 0.2
#: Paths that are printed without --json.
_SHOWN = 40
_AGO = re.compile(r"-(\d{1,6})([smhd])").fullmatch
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CLOCK = ("%H:%M", "%H:%M:%S")
_DATE = ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


class _When(click.ParamType):  # type: ignore[type-arg]  # as in `parameters`
    """The number of a point, or a time."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Json:
        """Return what the daemon is asked for. Fails when it is invalid."""
        found = order(value.strip(), datetime.now().astimezone())
        if found is None:
            text = "is neither the number of a point nor a time such as 14:35, -10m or"
            self.fail(f"{value!r} {text} '2026-11-30 14:35'", param, ctx)
        return found


def order(value: str, now: datetime) -> Json | None:
    """Return the point that a text names, in the daemon's form; None for another text.

    A time without a date is the last one that the clock has shown so.
    """
    if value.isdecimal():
        return {"point": int(value)}
    ago = _AGO(value)
    if ago is not None:
        return {"at": (now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).timestamp()}
    for form in (*_CLOCK, *_DATE):
        try:
            found = datetime.strptime(value, form)
        except ValueError:
            continue
        if form in _CLOCK:
            found = datetime.combine(now.date(), found.time())
            if found.astimezone() > now:
                found -= timedelta(days=1)
        return {"at": found.astimezone().timestamp()}
    return None


@click.command()
@click.argument("server", type=SERVER, metavar="SERVER")
@click.option(
    "--to",
    "point",
    type=_When(),
    help="To the newest point at or before this time, such as 14:35, '2026-11-30 14:35' or -10m; "
    "or to the point with this number.",
)
@click.option("--undo", is_flag=True, help="Undo the last rewind of this server.")
@click.option(
    "--skip-damaged",
    is_flag=True,
    help="Leave files as they are now that are damaged in the history; else the server is not "
    "rewound.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before a running server is stopped.")
@click.option("--cancel", is_flag=True, help="Cancel the rewind that is under way.")
@json_option
def rewind(
    *,
    server: str,
    point: Json | None,
    undo: bool,
    skip_damaged: bool,
    dry_run: bool,
    yes: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """Make a server's files what they were at a point of its history.

    SERVER is its UUID, the beginning of it, or its name. What differs is prepared while the server
    runs. Then it is stopped, what differs is exchanged, and it is started again if it ran.
    Everything since the point is kept in the history, so that a rewind can be undone. `wingsctl
    history SERVER` lists the points.
    """
    if sum((point is not None, undo, cancel)) != 1:
        raise click.UsageError("expected one of --to, --undo and --cancel")
    client, path = daemon_client(), f"rewinds/{server}"
    if cancel:
        found = client.ask("DELETE", path)
        output.answer(found, as_json, f"{server}: {plain(found['error'])}")
        return
    wanted = ({"undo": True} if point is None else point) | {"skip_damaged": skip_damaged}
    if dry_run or _is_asked(yes=yes, as_json=as_json):
        found = _followed(client, path, wanted | {"dry_run": True}, quiet=as_json)
        if not as_json:
            _show_difference(found)
        if dry_run:
            if as_json:
                print_json(found)
            return
        click.confirm("Stop the server if it runs, and change this?", abort=True)
        wanted = {"point": found["point"], "skip_damaged": skip_damaged}
    found = _followed(client, path, wanted, quiet=as_json)
    if as_json:
        print_json(found)
    else:
        _show_end(found)


def _is_asked(*, yes: bool, as_json: bool) -> bool:
    return not yes and not as_json and sys.stdin.isatty()


def _followed(client: ControlClient, path: str, order: Json, *, quiet: bool) -> Json:
    """Rewind a server, or look at it; return how that has ended. Raises `CtlError`."""
    found: Json = client.ask("POST", path, order)
    with output.console(stderr=True, quiet=quiet).status("preparing") as shown:
        while found["state"] not in ("done", "failed"):
            done = size(found["prepared_bytes"])
            shown.update(
                f"{found['state']}: {done}" if found["prepared_bytes"] else found["state"]
            )
            time.sleep(POLL_INTERVAL)
            found = client.ask("GET", path)
            if found["dry_run"] != order.get("dry_run", False):
                raise CtlError("the server is being rewound now", "try again when that is over")
    if found["state"] == "failed":
        raise CtlError(plain(found["error"]), "", Exit.FAILED, found["code"])
    return found


def _show_difference(found: Json) -> None:
    output.show(f"point {found['point']}, {when(found['time'])}:")
    if found["unsettled"]:
        named = _named(found["unsettled"])
        output.show(f"written all the time, and compared when the server is stopped: {named}")
    if found["unreadable"]:
        named = _named(found["unreadable"])
        output.show(f"unreadable on this node's disk, so not kept for an undo: {named}")
    _show_left(found, "damaged in the history, rewound only with --skip-damaged")
    if not found["changes"]:
        which = "other files" if found["unsettled"] else "files"
        output.show(f"the server's {which} are as they were then")
        return
    for path in found["paths"][:_SHOWN]:
        output.show(f"  {plain(path) or '(the directory itself)'}")
    if found["changes"] > _SHOWN:
        output.show(f"  and {found['changes'] - _SHOWN} more")
    restart = found["restart_seconds"]
    stops = f", and {restart:.1f} s to stop and start as at the last time" if restart else ""
    output.show(
        f"{found['changes']} files and directories would change, {size(found['bytes'])} would be "
        f"written. The server would be off for about {found['seconds_off']:.1f} s{stops}."
    )


def _named(paths: list[str]) -> str:
    shown = ", ".join(plain(path) or "(the directory itself)" for path in paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"


def _show_left(found: Json, damaged: str) -> None:
    if found["damaged"]:
        output.show(f"{damaged}: {_named(found['damaged'])}")
    if found["kept"]:
        output.show(
            "not in the point, since they were written all the time then, and left as now: "
            f"{_named(found['kept'])}"
        )


def _show_end(found: Json) -> None:
    _show_left(found, "damaged in the history, and left as before")
    if not found["changes"]:
        output.show(f"nothing to change: the files are as they were at {when(found['time'])}")
        return
    off = "" if found["seconds_off"] is None else f", off for {found['seconds_off']:.1f} s"
    output.show(
        f"rewound to point {found['point']}, {when(found['time'])}: {found['changes']} files and "
        f"directories changed, {size(found['bytes'])} written{off}",
        f"undo it with: wingsctl rewind {found['server']} --undo",
    )
    if found["differing"]:
        raise CtlError(
            f"not as at the point: {_named(found['differing'])}",
            "something outside of the server's container changes its files; undo the rewind if "
            "that matters",
        )
