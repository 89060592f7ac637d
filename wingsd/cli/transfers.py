"""`wingsctl transfers`, `show` and `cancel`: what moves and has moved, and calling it off."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, NoReturn

import click

from wingsd.cli import output as pictures
from wingsd.cli import output as printing
from wingsd.cli.client import ControlClient
from wingsd.cli.common import SERVER, client_of
from wingsd.cli.output import duration, json_option, print_json, size, when
from wingsd.cli.progress import EVERY, watch

__all__ = ["cancel", "show", "transfers"]

Json = dict[str, Any]


@click.command()
@click.option("--watch", "-w", "watching", is_flag=True, help="Go on showing them, until Ctrl-C.")
@click.option(
    "--past",
    type=click.IntRange(0, 10_000),
    default=20,
    show_default=True,
    help="How many that have ended are shown.",
)
@json_option
@click.pass_context
def transfers(context: click.Context, *, watching: bool, past: int, as_json: bool) -> None:
    """Show the transfers under way, and the last that have ended.

    Those that have ended are known for 90 days. With --watch and --json, each line is a whole
    answer.
    """
    client = client_of(context)
    if watching:
        with suppress(KeyboardInterrupt):
            _watch_as_json(client, past) if as_json else watch(client)
        return
    found = client.ask("GET", f"transfers?past={past}")
    if as_json:
        print_json(found)
        return
    if found["running"]:
        printing.show(pictures.running(found["running"], time.time()))
    else:
        printing.show("no transfer is under way")
    for each in found["expected"]:
        printing.show(f"{each['server']} is expected until {when(each['expires'])}")
    if found["past"]:
        printing.show("", pictures.past(found["past"]))


def _watch_as_json(client: ControlClient, past: int) -> NoReturn:
    while True:
        print_json(client.ask("GET", f"transfers?past={past}"), line=True)
        time.sleep(EVERY)


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
@click.pass_context
def show(context: click.Context, *, server: str, as_json: bool) -> None:
    """Show all that is known of one server's transfers."""
    found = client_of(context).ask("GET", f"transfers/{server}")
    if as_json:
        print_json(found)
        return
    printing.show(pictures.facts(_facts(server, found)))
    if found["past"]:
        printing.show("", pictures.past(found["past"]))


def _files(measured: int | None) -> str:
    return "not measured" if measured is None else size(measured)


def _facts(server: str, found: Json) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [("server", server)]
    known, running, expected = found["server"], found["running"], found["expected"]
    if known is not None:
        pairs += [
            ("name", known["name"]),
            ("state", known["state"] + (f" ({known['hold']})" if known["hold"] else "")),
            ("files", _files(known["disk_bytes"])),
        ]
        pairs += [("described by", "what came with it by hand")] if known["by_hand"] else []
    else:
        # There may be files of it: of what no Panel has told, the directory is not looked for.
        pairs.append(("state", "not known to this node"))
    if running is not None:
        total = f" of {size(running['total_bytes'])}" if running["total_bytes"] else ""
        pairs += [
            (
                "transfer",
                f"{pictures.way(running)}, for {duration(time.time() - running['begun'])}",
            ),
            *([("storage pool", pool)] if (pool := running.get("storage_pool")) else []),
            ("doing", running["doing"]),
            ("moved", f"{size(running['bytes'])}{total}, {size(running['bytes_per_second'])}/s"),
        ]
    if expected is not None:
        pairs.append(("expected", f"until {when(expected['expires'])}"))
    for report in found["reports_waiting"]:
        pairs.append(
            (
                "to be told",
                f"{report['outcome']}, since {when(report['since'])}, {report['attempts']} "
                f"attempts; {report['answer'] or 'no answer yet'}",
            )
        )
    return pairs


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
@click.pass_context
def cancel(context: click.Context, *, server: str, as_json: bool) -> None:
    """Cancel a server's transfer, or expect it no longer.

    The server stays where it was. Once its success is told it cannot be cancelled any more.
    """
    client_of(context).ask("DELETE", f"transfers/{server}")
    if as_json:
        print_json({"server": server, "cancelled": True})
    else:
        printing.show(f"{server}: it is being cancelled")
