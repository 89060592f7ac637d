"""`wingsctl status`: how the node is."""

from __future__ import annotations

import time
from typing import Any

import click

from wingsd.cli import output as pictures
from wingsd.cli.common import client_of
from wingsd.cli.output import duration, json_option, print_json, show, when

__all__ = ["status"]

Json = dict[str, Any]


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, *, as_json: bool) -> None:
    """Show how the node is: Panel, engine, disks, limits."""
    found = client_of(context).ask("GET", "status")
    if as_json:
        print_json(found)
        return
    show(pictures.facts(_facts(found)), "", pictures.disks(found["disks"]))


def _facts(found: Json) -> list[tuple[str, object]]:
    moving, limits = found["transfers"], found["limits"]
    return [
        ("wingsd", f"{found['version']}, up for {duration(found['uptime_seconds'])}"),
        ("listens at", found["address"]),
        ("Panel", _panel(found["panel"])),
        ("engine", _engine(found["engine"])),
        ("servers", _servers(found["servers"])),
        (
            "transfers",
            f"{moving['receiving']} coming, {moving['sending']} going, "
            f"{moving['expected']} expected by hand",
        ),
        ("reports", f"{found['reports_waiting']} wait to be told to the Panel"),
        (
            "limits",
            f"in {_rate(limits['download_mib_per_second'])}, "
            f"out {_rate(limits['upload_mib_per_second'])}, {limits['concurrent']} at a time and "
            f"{limits['waiting']} waiting, {limits['disk_reserve_mib']} MiB of the disk stay free",
        ),
    ]


def _panel(panel: Json) -> str:
    heard = panel["last_heard"]
    ago = "" if heard is None else f", {duration(time.time() - heard)} ago"
    if not panel["reachable"]:
        return f"{panel['url']} is NOT reachable: {panel['error']}; last heard {when(heard)}{ago}"
    if panel["error"]:
        return f"{panel['url']} REFUSES this node: {panel['error']}"
    return f"{panel['url']} answers"


def _engine(engine: Json) -> str:
    if not engine["enabled"]:
        return "none: docker.enabled is false"
    return (
        f"Docker {engine['version']}" if not engine["error"] else f"NOT usable: {engine['error']}"
    )


def _servers(servers: Json) -> str:
    if not servers["loaded"]:
        return "not known yet: the Panel has not told them"
    return f"{servers['count']}, of which {servers['running']} run"


def _rate(limit: int | None) -> str:
    return "without limit" if limit is None else f"{limit} MiB/s"
