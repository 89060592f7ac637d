"""`wingsctl status`, `transfers`, `show`, `cancel` and `forget`: the node and its transfers."""

from __future__ import annotations

import time
from contextlib import suppress

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table

from wingsd.cli import output
from wingsd.cli.client import Json
from wingsd.cli.output import duration, json_option, print_json, size, when
from wingsd.cli.parameters import SERVER, daemon_client
from wingsd.cli.progress import POLL_INTERVAL, watch


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show the state of the node: Panel, engine, servers, disks."""
    found = daemon_client().ask("GET", "status")
    if as_json:
        print_json(found)
        return
    output.show(output.facts(_node_facts(found)), "", output.disks(found["disks"]))


def _node_facts(found: Json) -> list[tuple[str, object]]:
    moving, limits = found["transfers"], found["limits"]
    return [
        ("wingsd", f"{found['version']}, up for {duration(found['uptime_seconds'])}"),
        ("address", found["address"]),
        ("Panel", _panel(found["panel"])),
        ("engine", _engine(found["engine"])),
        ("servers", _servers(found["servers"])),
        *(
            (
                "WITHOUT a server",
                f"the container {each['container']} ({each['status']}, {each['image']}): neither "
                f"this node nor the Panel has the server; to remove it, run: {each['remove']}",
            )
            # An older daemon does not send them.
            for each in found.get("containers_without_server", ())
        ),
        (
            "transfers",
            f"{moving['receiving']} incoming, {moving['sending']} outgoing, "
            f"{moving['expected']} expected",
        ),
        # An older daemon does not send these.
        *_evacuation(found.get("evacuation")),
        *(
            [("MAINTENANCE", _maintenance(found["maintenance"]))]
            if found.get("maintenance")
            else []
        ),
        *_histories(found.get("histories")),
        ("reports", f"{found['reports_waiting']} to be sent to the Panel"),
        (
            "limits",
            f"in {_rate(limits['download_mib_per_second'])}, "
            f"out {_rate(limits['upload_mib_per_second'])}, {limits['concurrent']} at a time and "
            f"{limits['waiting']} waiting, {limits['disk_reserve_mib']} MiB of the disk kept free",
        ),
    ]


def _histories(found: Json | None) -> list[tuple[str, object]]:
    """Return a line about histories; none where no points are made."""
    if found is None:
        return []
    parts = [f"{found['count']} with {found['points']} points, {size(found['bytes'])}"]
    if found["oldest"] is not None:
        parts.append(f"all looked at within {duration(time.time() - found['oldest'])}")
    parts += [f"{found[each]} {each.upper()}" for each in ("late", "failing") if found[each]]
    parts += [f"{found['damaged']} DAMAGED"] if found["damaged"] else []
    return [("histories", ", ".join(parts))]


def _maintenance(found: Json) -> str:
    why = f": {output.plain(found['why'])}" if found["why"] else ""
    return f"since {when(found['since'])}{why}; it takes no servers"


def _evacuation(found: Json | None) -> list[tuple[str, object]]:
    """Return how far `wingsctl evacuate` is, as it has reported last."""
    if found is None:
        return []
    ends = f", done about {when(found['ends'])}" if found["ends"] is not None else ""
    return [
        (
            "evacuation",
            f"to {found['to']}: {found['state']}, {found['moved']} of {found['total']} servers "
            f"moved, {found['failed']} failed, {size(found['bytes_done'])} of "
            f"{size(found['bytes'])} sent{ends}; reported "
            f"{duration(time.time() - found['reported'])} ago, by the plan {found['plan']}",
        )
    ]


def _panel(panel: Json) -> str:
    heard = panel["last_heard"]
    ago = "" if heard is None else f", {duration(time.time() - heard)} ago"
    if not panel["reachable"]:
        return f"{panel['url']} is NOT reachable: {_error(panel)}; last heard {when(heard)}{ago}"
    if panel["error"]:
        return f"{panel['url']} REFUSES this node: {_error(panel)}"
    return f"{panel['url']} is reachable"


def _engine(engine: Json) -> str:
    if not engine["enabled"]:
        return "none: docker.enabled is false"
    return f"NOT usable: {_error(engine)}" if engine["error"] else f"Docker {engine['version']}"


def _error(part: Json) -> str:
    """Return a part's error with its code, which an older daemon does not send."""
    code = part.get("code")
    return f"{part['error']} ({code})" if code else str(part["error"])


def _servers(servers: Json) -> str:
    if not servers["loaded"]:
        return "not loaded: the Panel has not sent the list"
    return f"{servers['count']}, {servers['running']} running"


def _rate(limit: int | None) -> str:
    return "unlimited" if limit is None else f"{limit} MiB/s"


def _pressure(used: Json) -> float:
    return float(max(used["pressure_percent"].values(), default=0.0))


#: By each order of `top`, the value of a server that it has the largest of first.
_ORDERS = {
    "cpu": lambda used: used["cpu_percent"],
    "memory": lambda used: used["memory_bytes"],
    "io": lambda used: used["read_bytes_per_second"] + used["written_bytes_per_second"],
    "network": lambda used: used["received_bytes_per_second"] + used["sent_bytes_per_second"],
    "pressure": _pressure,
}
#: Seconds between two questions of `top`: a server is measured every second.
_TOP_INTERVAL = 1.0


@click.command()
@click.option(
    "--sort",
    "-s",
    "order",
    type=click.Choice(list(_ORDERS)),
    default="cpu",
    show_default=True,
    help="The order of the servers.",
)
@json_option
def top(*, order: str, as_json: bool) -> None:
    """Show what the machine and the servers use now, until Ctrl-C.

    With --json, and where the output is no terminal, it is shown once.
    """
    client, console = daemon_client(), output.console()

    def ask() -> Json:
        found: Json = client.ask("GET", "top")
        found["servers"].sort(key=_ORDERS[order], reverse=True)
        return found

    if as_json:
        print_json(ask())
    elif not console.is_terminal:
        output.show(*_top(ask()))
    else:
        with suppress(KeyboardInterrupt), Live(console=console, screen=True) as screen:
            while True:
                screen.update(Group(*_top(ask())), refresh=True)
                time.sleep(_TOP_INTERVAL)


def _top(found: Json) -> tuple[Table, str, Table | str]:
    machine, servers = found["machine"], found["servers"]
    used, total = size(machine["memory_bytes"]), size(machine["memory_total_bytes"])
    pressure = machine["pressure_percent"].items()
    facts: list[tuple[str, object]] = [
        ("cpu", output.percent(machine["cpu_percent"])),
        ("memory", f"{used} of {total}"),
        (
            "pressure",
            ", ".join(f"{name} {output.percent(each)}" for name, each in pressure) or "-",
        ),
    ]
    runs = [each for each in servers if each["uptime_seconds"]]
    return output.facts(facts), "", output.usage(runs) if runs else "no server runs"


@click.command()
@click.option("--watch", "-w", "watching", is_flag=True, help="Update until Ctrl-C.")
@click.option(
    "--past",
    type=click.IntRange(0, 10_000),
    default=20,
    show_default=True,
    help="Number of ended transfers.",
)
@json_option
def transfers(*, watching: bool, past: int, as_json: bool) -> None:
    """List the transfers in progress, and those that have ended.

    Ended transfers are kept for 90 days. With --watch and --json, each line is a JSON document.
    """
    client = daemon_client()
    if watching:
        with suppress(KeyboardInterrupt):
            while as_json:
                print_json(client.ask("GET", f"transfers?past={past}"), line=True)
                time.sleep(POLL_INTERVAL)
            watch(client)
        return
    found = client.ask("GET", f"transfers?past={past}")
    if as_json:
        print_json(found)
        return
    if found["running"]:
        output.show(output.running(found["running"]))
    else:
        output.show("no transfers in progress")
    for each in found["expected"]:
        output.show(f"{each['server']}: expected until {when(each['expires'])}")
    for each in found.get("kept", ()):
        output.show(
            f"{each['server']}: {size(each['bytes'])} of a failed move are kept since "
            f"{when(each['since'])}: its next transfer goes on with them, wingsctl forget removes "
            "them"
        )
    if found["past"]:
        output.show("", output.past(found["past"]))


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
def show(*, server: str, as_json: bool) -> None:
    """Show a server, and all its transfers."""
    found = daemon_client().ask("GET", f"transfers/{server}")
    if as_json:
        print_json(found)
        return
    output.show(output.facts(_transfer_facts(server, found)))
    if found["past"]:
        output.show("", output.past(found["past"]))


def _transfer_facts(server: str, found: Json) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [("server", server)]
    known, running, expected = found["server"], found["running"], found["expected"]
    if known is not None:
        files = "not measured" if known["disk_bytes"] is None else size(known["disk_bytes"])
        pairs += [
            ("name", known["name"]),
            ("state", known["state"] + (f" ({known['hold']})" if known["hold"] else "")),
            ("files", files),
        ]
        pairs += [("configuration", "received in a direct transfer")] if known["by_hand"] else []
    else:
        # It may have files here: directories of unknown servers are not searched for.
        pairs.append(("state", "not on this node"))
    if running is not None:
        total = f" of {size(running['total_bytes'])}" if running["total_bytes"] else ""
        pairs += [
            (
                "transfer",
                f"{output.direction_of(running)}, for {duration(time.time() - running['begun'])}",
            ),
            *([("storage pool", pool)] if (pool := running.get("storage_pool")) else []),
            ("doing", output.doing(running)),
            (
                "transferred",
                f"{size(running['bytes'])}{total}, {size(running['bytes_per_second'])}/s"
                + (f", {left} left" if (left := output.left(running)) else ""),
            ),
            *([("before", there)] if (there := output.resumed(running)) else []),
        ]
    if expected is not None:
        pairs.append(("expected", f"until {when(expected['expires'])}"))
    for report in found["reports_waiting"]:
        pairs.append(
            (
                "report",
                f"{report['outcome']}, not confirmed by the Panel since {when(report['since'])}, "
                f"{report['attempts']} attempts; {report['answer'] or 'no answer yet'}",
            )
        )
    return pairs


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
def cancel(*, server: str, as_json: bool) -> None:
    """Cancel a server's transfer, or stop expecting it.

    The server stays on its source. After success was reported a transfer cannot be cancelled.
    """
    daemon_client().ask("DELETE", f"transfers/{server}")
    output.answer({"server": server, "cancelled": True}, as_json, f"{server}: cancelling")


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@json_option
def forget(*, server: str, as_json: bool) -> None:
    """Remove the copy that a server's failed move, or a seed, left here.

    A seed ends by this. The next transfer of the server to this node sends all files again.
    """
    daemon_client().ask("DELETE", f"kept/{server}")
    text = f"{server}: nothing is kept of it any more"
    output.answer({"server": server, "forgotten": True}, as_json, text)
