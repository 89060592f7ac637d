"""`wingsctl evacuate`: all servers of this node move to another one, and come back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wingsd.cli import output
from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.evacuation.panels import PANELS, Panel, read_key
from wingsd.cli.evacuation.plan import Entry, Plan, State, load, make, save
from wingsd.cli.evacuation.sequence import (
    TURN,
    Evacuation,
    Wish,
    cancel_waiting,
    doing,
    is_locked,
    locked,
    progress,
    wish,
)
from wingsd.cli.output import duration, json_option, plain, print_json, show, size
from wingsd.cli.parameters import daemon_client, node_url
from wingsd.config import FAMILIES
from wingsd.util.durable import replace_file

_STATE = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
#: The plan where no other one is named.
DEFAULT_PLAN = str(_STATE.expanduser() / "wingsctl" / "evacuation.json")
#: The unit of a detached evacuation, and the variable that names it to the command.
UNIT, UNIT_VARIABLE = "wingsd-evacuate.service", "WINGSCTL_UNIT"
UNITS = Path("/etc/systemd/system")

_plan_option = click.option(
    "--plan",
    "path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    default=DEFAULT_PLAN,
    show_default="~/.local/state/wingsctl/evacuation.json",
    help="The file of the plan. Without --to, go on with it.",
)


@click.group(invoke_without_command=True)
@click.option("--to", "node", metavar="NODE", help="The paired node that takes the servers.")
@click.option(
    "--panel-key-file",
    "key_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="The file with your API key of the Panel, which you alone can read.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@_plan_option
@click.option(
    "--back",
    type=click.Path(dir_okay=False),
    metavar="PLAN",
    help="Bring back the servers that this plan has moved to this node.",
)
@click.option("--detach", is_flag=True, help="Go on as a systemd unit, also after a reboot.")
@click.option(
    "--at-once",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Running servers that move at a time; 2 by default.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Servers that are sent whole at a time; 4 by default.",
)
@click.option(
    "--max-downtime",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Move no server that would be down for longer, besides the restart of its program; 5 by "
    "default.",
)
@click.option(
    "--panel",
    "panel_url",
    type=node_url,
    metavar="URL",
    help="The Panel's address, when it is not the one in the daemon's configuration.",
)
@click.option("--family", type=click.Choice(FAMILIES), help="The Panel's family, likewise.")
@json_option
@click.pass_context
def evacuate(  # noqa: C901, PLR0912, PLR0913 - one for each option
    context: click.Context,
    *,
    node: str | None,
    key_file: str | None,
    dry_run: bool,
    path: str,
    back: str | None,
    detach: bool,
    at_once: int | None,
    seeds: int | None,
    max_downtime: float | None,
    panel_url: str | None,
    family: str | None,
    as_json: bool,
) -> None:
    """Move all servers of this node to another one, by transfers of the Panel.

    Running servers are copied while they are used, and are down for seconds. The two nodes are
    paired before: wingsctl pair, on the other node.
    """
    if context.invoked_subcommand is not None:
        if path != DEFAULT_PLAN:
            raise click.UsageError(f"write --plan after {context.invoked_subcommand}")
        return
    if key_file is None:
        raise click.UsageError("--panel-key-file is required.")
    client, key = daemon_client(), read_key(key_file)
    systemctl = _systemctl() if detach and not dry_run else ""
    if back is not None and path == DEFAULT_PLAN:
        path = f"{os.path.abspath(back)}.back"
    is_new = node is not None or back is not None
    with nullcontext() if dry_run else locked(path):
        plan = None if is_new else load(path)
        if plan is not None:
            panel_url, family = panel_url or plan.panel, family or plan.family
        panel = _panel(client, key, panel_url, family)
        if plan is None:
            before = None if dry_run else _finished(path)
            plan = _made(client, panel, node, back)
            if before is not None:
                _keep_moved(before, plan, path)
        plan.at_once = at_once or plan.at_once
        plan.seeds = seeds or plan.seeds
        plan.max_downtime = max_downtime or plan.max_downtime
        if dry_run:
            output.answer(_described(plan, path), as_json, *_shown(plan))
            return
        if is_new:
            wish(path, Wish.GO_ON)
        save(plan, path)
        if is_new:
            show(*([] if as_json else _shown(plan)))
        if not detach:
            _run(Evacuation(plan, path, client, panel, _line), path, key_file)
    if detach:
        _detach(systemctl, path, key_file)
        text = f"{UNIT} goes on with it; see wingsctl evacuate status, and journalctl -u {UNIT}"
        output.answer({"plan": path, "unit": UNIT}, as_json, text)
        return
    output.answer(_described(plan, path), as_json, *_summary(plan))
    if not plan.has_succeeded:
        sys.exit(Exit.FAILED)


def _line(text: str) -> None:
    """Print what has happened, with the time."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _panel(client: ControlClient, key: str, url: str | None, family: str | None) -> Panel:
    """Return the client of the daemon's Panel, or of another one."""
    if url is None or family is None:
        found = client.ask("GET", f"evacuation?since={time.time():.0f}")["node"]
        url, family = url or found["panel"], family or found["family"]
    return PANELS[str(family)](str(url).rstrip("/"), key)


def _finished(path: str) -> Plan | None:
    """Return the plan that a new one replaces. Raises `CtlError` if it is not finished."""
    before = load(path) if os.path.exists(path) else None
    if before is not None and not before.is_over:
        raise CtlError(
            f"the plan {path} is not finished",
            f"go on with it by wingsctl evacuate --plan {path} without --to and --back, or end it "
            f"by wingsctl evacuate cancel --plan {path}; --plan may also name another file",
        )
    return before


def _keep_moved(before: Plan, plan: Plan, path: str) -> None:
    """Take the servers that an earlier plan has moved into the one that replaces it.

    Its file is the only record of them, from which they come back. Raises `CtlError` if they are
    at another node.
    """
    here = {each.uuid for each in plan.servers}
    moved = [each for each in before.of(State.MOVED) if each.uuid not in here]
    ends = [(each.source.uuid, each.destination.uuid) for each in (before, plan)]
    if moved and ends[0] != ends[1]:
        raise CtlError(
            f"{path} is the record of {len(moved)} servers that have moved to "
            f"{plain(before.destination.name)}",
            "name another file with --plan",
        )
    plan.servers = (*moved, *plan.servers)


def _made(client: ControlClient, panel: Panel, node: str | None, back: str | None) -> Plan:
    """Return a new plan, for all servers or for those that came by another plan."""
    if back is None:
        return make(client, panel, _pair(client, node))
    before = load(back)
    only = {each.uuid: None for each in before.of(State.MOVED)}
    if not only:
        raise CtlError(f"{back} has moved no server", "there is nothing to bring back")
    plan = make(client, panel, _pair(client, node), only)
    if node is None and plan.destination.uuid != before.source.uuid:
        raise CtlError(
            f"this node is paired with {plain(plan.destination.name)}; the servers came from "
            f"{plain(before.source.name)}",
            "pair this node with that one, or name a paired node with --to",
        )
    return plan


def _pair(client: ControlClient, node: str | None) -> str:
    """Return the name of the pair with a node, to which this one may send copies.

    Without a node it is the only pair.
    """
    pairs = [each for each in client.ask("GET", "pairs")["pairs"] if each["direction"] == "out"]
    if node is None and len(pairs) == 1:
        return str(pairs[0]["name"])
    for each in pairs:
        if node in (each["name"], each["peer"], each["url"], urlsplit(each["url"]).hostname):
            return str(each["name"])
    names = ", ".join(plain(each["name"]) for each in pairs) or "none"
    if node is None and pairs:
        raise CtlError("this node has several pairs", f"name one with --to: {names}")
    raise CtlError(
        f"this node is not paired with {plain(node or 'another one')}",
        f"run wingsctl pair there, and the command that it prints here; pairs: {names}",
    )


def _run(evacuation: Evacuation, path: str, key_file: str) -> None:
    try:
        evacuation.run(time.sleep)
    except KeyboardInterrupt:
        raise CtlError(
            "interrupted; the copies, and transfers that were ordered, go on",
            f"go on with wingsctl evacuate --plan {path} --panel-key-file {key_file}",
            Exit.INTERRUPTED,
        ) from None
    _leave_unit()


# Tables


def _described(plan: Plan, path: str) -> Json:
    """Return a plan as JSON."""
    return progress(plan, path, {}, time.time()) | {
        "panel": plan.panel,
        "source": plan.source.name,
        "destination": plan.destination.name,
        "seconds_of_copies": plan.seconds_of_copies,
        "seconds_of_moves": plan.seconds_of_moves,
        "servers": [_server(each) for each in plan.servers],
    }


def _server(entry: Entry) -> Json:
    return {
        "server": entry.uuid,
        "name": entry.name,
        "state": entry.state.value,
        "reason": entry.reason,
        "bytes": entry.bytes,
        "running": entry.is_running,
        "addresses": entry.addresses,
        "new_addresses": entry.new_addresses,
        "expected_downtime": entry.expected,
        "downtime": entry.downtime,
        "attempts": entry.tries,
        "ended": entry.ended or None,
    }


def _shown(plan: Plan) -> list[Table | str]:
    """Return a plan as a table, with its times."""
    table = output.titled("server", "size", "state", "port", "down", "plan")
    for each in plan.servers:
        table.add_row(
            Text(plain(each.name)),
            size(each.bytes),
            "running" if each.is_running else "off",
            _ports(each),
            f"about {each.expected:.0f} s" if each.is_running else "-",
            Text(plain(each.reason or "moves"), style="" if each.state.is_open else "red"),
        )
    left = plan.of(State.LEFT_OUT)
    copies = plan.seconds_of_copies
    told = "not known before the first copy" if copies is None else f"about {duration(copies)}"
    total = sum(each.bytes for each in plan.servers if each.state.is_open)
    stay_off = f"servers STAY OFF at {plan.destination.name}: system.transfers.live.start is false"
    return [
        f"{plan.source.name} to {plan.destination.name}, {plan.at_once} running servers at a time",
        table,
        f"copies: {size(total)}, {told}; moves: about {duration(plan.seconds_of_moves)}",
        *([] if plan.starts_moved else [stay_off]),
        *([f"{len(left)} servers are LEFT OUT, for the reasons above"] if left else []),
    ]


def _ports(entry: Entry) -> str:
    old, new = (
        ", ".join(each.rpartition(":")[2] for each in addresses) or "-"
        for addresses in (entry.addresses, entry.new_addresses)
    )
    return f"{old} -> {new}" if entry.new_addresses and entry.moves_port else old


def _summary(plan: Plan) -> list[Table | str]:
    """Return what has become of all servers."""
    table = output.titled("server", "size", "down", "address", "result")
    for each in plan.servers:
        table.add_row(
            Text(plain(each.name)),
            size(each.bytes),
            "-" if each.downtime is None else f"{each.downtime:.1f} s",
            ", ".join(each.new_addresses) if each.state is State.MOVED else "-",
            doing(each, None, plan.max_downtime),
        )
    moved = plan.of(State.MOVED)
    downs = sorted(each.downtime for each in moved if each.downtime is not None)
    median = f", down for {downs[len(downs) // 2]:.1f} s in the median" if downs else ""
    changed = [each for each in moved if each.moves_port]
    lines = [
        f"{len(moved)} of {len(plan.servers)} servers have moved, "
        f"{size(sum(each.bytes for each in moved))}{median}"
    ]
    if changed:
        lines.append(
            f"players need new ports of: {', '.join(plain(each.name) for each in changed)}"
        )
    return [table, *lines]


def _status_table(plan: Plan, path: str, found: Json | None) -> list[Table | str]:
    servers = {each["server"]: each for each in (found or {}).get("servers", ())}
    table = output.titled("server", "size", "port", "doing")
    for each in plan.servers:
        table.add_row(
            Text(plain(each.name)),
            size(each.bytes),
            _ports(each),
            Text(doing(each, servers.get(each.uuid), plan.max_downtime)),
        )
    now = time.time()
    reached = progress(plan, path, servers, now)
    ends = f", {duration(reached['ends'] - now)} left" if reached["ends"] else ""
    runs = "" if plan.is_over or is_locked(path) else "; NO command goes on with it"
    return [
        table,
        f"{reached['state']}: {reached['moved']} of {reached['total']} moved, "
        f"{reached['failed']} failed or left out, {size(reached['bytes_done'])} of "
        f"{size(reached['bytes'])}{ends}{runs}",
    ]


# Commands for an evacuation that runs


@evacuate.command()
@_plan_option
@click.option("--watch", "-w", "watching", is_flag=True, help="Update until Ctrl-C, or the end.")
@json_option
def status(*, path: str, watching: bool, as_json: bool) -> None:
    """Show what is done for each server."""
    client = daemon_client()

    def look() -> tuple[Plan, Json | None]:
        plan = load(path)
        with suppress(CtlError):  # the daemon is being restarted
            return plan, client.ask("GET", f"evacuation?since={time.time():.0f}")
        return plan, None

    def shown() -> Table:
        grid = Table.grid()
        for part in _status_table(plan, path, found):
            grid.add_row(part)
        return grid

    plan, found = look()
    if watching and not as_json:
        with suppress(KeyboardInterrupt), Live(shown(), console=output.console()) as live:
            while not plan.is_over:
                time.sleep(TURN)
                plan, found = look()
                live.update(shown())
        return
    while True:
        if not as_json:
            show(*_status_table(plan, path, found))
            return
        servers = {each["server"]: each for each in (found or {}).get("servers", ())}
        described = _described(plan, path) | progress(plan, path, servers, time.time())
        for each, entry in zip(described["servers"], plan.servers, strict=True):
            each["doing"] = doing(entry, servers.get(entry.uuid), plan.max_downtime)
        print_json(described, line=watching)
        if not watching or plan.is_over:
            return
        time.sleep(TURN)
        plan, found = look()


def _tell(path: str, wanted: Wish, as_json: bool, text: str) -> None:
    plan = load(path)
    if plan.is_over:
        raise CtlError(f"the plan {path} is finished", "see wingsctl evacuate status")
    wish(path, wanted)
    if not is_locked(path):
        text += _cancelled(path) if wanted is Wish.CANCEL else "; no command goes on with it now"
    output.answer({"plan": path, "wish": wanted.value}, as_json, text)


def _cancelled(path: str) -> str:
    """Cancel a plan with which no command goes on; return a sentence about what is left."""
    with locked(path):
        plan, client = load(path), daemon_client()
        cancel_waiting(client, plan, path)
        client.ask("PUT", "evacuation", progress(plan, path, {}, time.time()))
    left = len(plan.of(State.ORDERED))
    return f"; wingsctl evacuate --plan {path} says what becomes of {left} servers" * bool(left)


@evacuate.command()
@_plan_option
@json_option
def pause(*, path: str, as_json: bool) -> None:
    """Order no more transfers. Copies follow their servers, and what was ordered goes on."""
    _tell(path, Wish.PAUSE, as_json, "paused; wingsctl evacuate resume goes on")


@evacuate.command()
@_plan_option
@json_option
def resume(*, path: str, as_json: bool) -> None:
    """Go on after a pause."""
    _tell(path, Wish.GO_ON, as_json, "goes on")


@evacuate.command()
@_plan_option
@json_option
def cancel(*, path: str, as_json: bool) -> None:
    """End the evacuation. What was ordered goes on; all other servers stay on this node.

    What their copies have at the other node is kept there for some days.
    """
    _tell(path, Wish.CANCEL, as_json, "cancelled; what was ordered goes on")


# The unit of a detached evacuation


def _systemctl() -> str:
    """Return the program that starts units. Raises `CtlError` where systemd does not run."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not os.path.isdir("/run/systemd/system"):
        raise CtlError("systemd does not run here", "run the command without --detach, in tmux")
    return systemctl


def _detach(systemctl: str, path: str, key_file: str) -> None:
    """Write and start a unit that goes on with a plan, also after a reboot. Raises `CtlError`."""
    socket = str(click.get_current_context().find_root().params["socket"])
    words = [shutil.which("wingsctl") or os.path.abspath(sys.argv[0]), "--socket", socket]
    words += ["evacuate", "--plan", os.path.abspath(path)]
    words += ["--panel-key-file", os.path.abspath(key_file)]
    asked = [systemctl, "is-active", "--quiet", UNIT]
    if subprocess.run(asked, check=False, capture_output=True).returncode == 0:  # noqa: S603
        raise CtlError(
            f"{UNIT} runs already, with another plan",
            f"wait for its end, or run this in tmux without --detach; the plan is {path}",
        )
    try:
        replace_file(UNITS / UNIT, unit(words).encode(), mode=0o644)
        for command in (["daemon-reload"], ["enable", "--now", UNIT]):
            subprocess.run([systemctl, *command], check=True, capture_output=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise CtlError(f"{UNIT} cannot be started: {error}", "run this as root") from error


def unit(words: list[str]) -> str:
    """Return the text of the unit that runs a command."""

    def quoted(word: str) -> str:
        for special, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
            word = word.replace(special, written)
        return f'"{word}"'

    return f"""\
# Written by wingsctl evacuate --detach.
[Unit]
Description=Evacuation of this node's game servers
Documentation=man:wingsctl(1)
Wants=network-online.target
After=network-online.target wingsd.service

[Service]
ExecStart={" ".join(map(quoted, words))}
Environment={UNIT_VARIABLE}={UNIT}
# Not after a failure, which the journal has, and which needs a person.
Restart=on-abnormal
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def _leave_unit() -> None:
    """Disable the unit that runs this command, so that the next boot does not start it."""
    name, systemctl = os.environ.get(UNIT_VARIABLE), shutil.which("systemctl")
    if name and systemctl:
        subprocess.run([systemctl, "disable", name], check=False, capture_output=True)  # noqa: S603
