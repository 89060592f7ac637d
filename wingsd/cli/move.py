"""`wingsctl receive` and `send`: moving a server by hand, without a Panel."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from wingsd.cli.client import CtlError, Exit
from wingsd.cli.output import duration, json_option, plain, print_json, show, size
from wingsd.cli.parameters import ADDRESS, SERVER, SettingsFile, client_of
from wingsd.cli.progress import follow
from wingsd.util.text import canonical_uuid

__all__ = ["receive", "send"]

Json = dict[str, Any]
MINUTE = 60
A_WEEK = 7 * 24 * 60


@click.command()
@click.argument("server", type=SERVER, metavar="[UUID]", required=False)
@click.option(
    "--settings",
    type=SettingsFile(),
    metavar="FILE",
    help="What the server is, as JSON of the form that a Panel answers; in place of what its "
    "source says. - is standard input.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP:PORT",
    help="Where players reach it on this node; the first of several is the server's own. Without "
    "it, as its settings say.",
)
@click.option(
    "--url",
    type=ADDRESS,
    metavar="URL",
    help="This node's address, as its source reaches it, where api.public_url does not tell it.",
)
@click.option(
    "--minutes",
    type=click.IntRange(1, A_WEEK),
    default=60,
    show_default=True,
    help="For how long the server may begin to come.",
)
@click.option("--wait", is_flag=True, help="Show how it comes, and return when it is here.")
@json_option
@click.pass_context
def receive(
    context: click.Context,
    *,
    server: str | None,
    settings: Json | None,
    addresses: tuple[str, ...],
    url: str | None,
    minutes: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Expect a server on this node, and print the command that sends it.

    The token in it is good once. The Panel is not asked, and not told. UUID may be left out where
    --settings tells it.
    """
    client = client_of(context)
    order = {
        "server": server or _named(settings),
        "settings": settings,
        "addresses": addresses,
        "seconds": minutes * MINUTE,
    }
    told = client.ask("POST", "receive", order)
    address = url or told["url"]
    told |= {"url": address, "url_is_certain": url is not None or told["url_is_certain"]}
    told["send"] = shlex.join(
        ["wingsctl", "send", told["server"], "--to", address, "--token", told["token"]]
    )
    if as_json:
        print_json(told, line=wait)
    else:
        _print_invitation(told, minutes)
    if wait:
        with _left_to_itself(told["server"]):
            ended = follow(client, told["server"], told["after"], quiet=as_json)
        _conclude(ended, as_json=as_json, line=True)


def _named(settings: Json | None) -> str:
    """Return the UUID that settings tell."""
    if settings is None:
        raise click.UsageError("which server? Give its UUID, or --settings FILE.")
    uuid = settings["settings"].get("uuid")
    found = canonical_uuid(uuid) if isinstance(uuid, str) else None
    if found is None:
        raise click.UsageError("the settings have no UUID as settings.uuid.")
    return found


def _print_invitation(told: Json, minutes: int) -> None:
    show(f"The server is expected for {duration(minutes * MINUTE)}. On its source, run:\n")
    # Not folded: it is to be copied.
    click.echo(f"  {told['send']}\n")
    if not told["url_is_certain"]:
        show(
            f"{told['url']} is a guess: if the source does not reach this node by it, put the "
            "right address there, or set api.public_url."
        )
    show("The token is good once. wingsctl cancel takes it back.")


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@click.option(
    "--to",
    "url",
    type=ADDRESS,
    required=True,
    metavar="URL",
    help="The other node's address.",
)
@click.option(
    "--token",
    required=True,
    envvar="WINGSCTL_TOKEN",
    metavar="TOKEN",
    callback=lambda _, __, value: sys.stdin.readline() if value == "-" else value,
    help="The token that wingsctl receive printed there; - reads it from standard input.",
)
@click.option(
    "--settings",
    type=SettingsFile(),
    metavar="FILE",
    help="What the server is, where this node's Panel has not told it; JSON of the form that a "
    "Panel answers.",
)
@click.option(
    "--delete",
    "remove",
    is_flag=True,
    help="Delete the server here, files and container, when the other node has it. Backups stay.",
)
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
@json_option
@click.pass_context
def send(
    context: click.Context,
    *,
    server: str,
    url: str,
    token: str,
    settings: Json | None,
    remove: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send a server to another node, which expects it.

    It is stopped first. When the other node has it, its files stay here, but for --delete, and it
    is not started here any more. Where it fails nothing of it stays there. Its backups do not
    move. The Panel is not asked, and not told.
    """
    client = client_of(context)
    order = {
        "server": server,
        "url": url,
        "token": token.removeprefix("Bearer ").strip(),
        "settings": settings,
        "remove": remove,
    }
    told = client.ask("POST", "send", order)
    if no_wait:
        if as_json:
            print_json(told)
        else:
            show(f"{server}: it is being sent; see wingsctl show {server}")
            _tell_of_backups(told)
        return
    with _left_to_itself(server):
        ended = follow(client, server, told["after"], quiet=as_json)
    stay = {"backups_stay_in": told["backups_stay_in"]}
    _conclude(ended | stay, as_json=as_json)
    if not as_json:
        _tell_of_backups(told)


def _tell_of_backups(told: Json) -> None:
    """Say what does not move: whoever deletes a server would else miss its backups."""
    show(f"Its backups, where it has any, stay on this node, in {told['backups_stay_in']}.")


@contextmanager
def _left_to_itself(server: str) -> Iterator[None]:
    """Say what goes on when the operator leaves with Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise CtlError(
            "left, and it goes on", f"wingsctl cancel {server} ends it", Exit.LEFT
        ) from None


def _conclude(ended: Json, *, as_json: bool, line: bool = False) -> None:
    """Print how a transfer ended, and end as it did."""
    moved = ended["outcome"] == "success"
    if as_json:
        print_json(ended, line=line)
    elif moved:
        seconds = duration(ended["ended"] - ended["begun"])
        files = f"{size(ended['bytes'])}, {ended['files']} files, in {seconds}"
        show(f"{ended['server']}: moved: {files}")
    if not moved:
        if as_json:
            sys.exit(Exit.FAILED)
        raise CtlError(f"{ended['server']} has not moved", plain(ended["reason"]))
