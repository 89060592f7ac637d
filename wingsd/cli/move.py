"""`wingsctl receive` and `send`: direct transfers, without a Panel."""

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
    help="The server's configuration, in place of the one that the source sends: JSON in the form "
    "of a Panel's answer. - reads standard input.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP:PORT",
    help="The server's address on this node; the first of several is the primary one. The default "
    "is that of its settings.",
)
@click.option(
    "--url",
    type=ADDRESS,
    metavar="URL",
    help="The address by which the source reaches this node, when api.public_url is not set.",
)
@click.option(
    "--minutes",
    type=click.IntRange(1, A_WEEK),
    default=60,
    show_default=True,
    help="How long the transfer may be started.",
)
@click.option("--wait", is_flag=True, help="Show the progress, and return when it has ended.")
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
    """Prepare to receive a server, and print the command to send it.

    The token in the command is valid once. The Panel is not involved. UUID may be omitted with
    --settings.
    """
    client = client_of(context)
    request = {
        "server": server or _uuid_of(settings),
        "settings": settings,
        "addresses": addresses,
        "seconds": minutes * MINUTE,
    }
    answer = client.ask("POST", "receive", request)
    address = url or answer["url"]
    answer |= {"url": address, "url_is_certain": url is not None or answer["url_is_certain"]}
    answer["send"] = shlex.join(
        ["wingsctl", "send", answer["server"], "--to", address, "--token", answer["token"]]
    )
    if as_json:
        print_json(answer, line=wait)
    else:
        _print_invitation(answer, minutes)
    if wait:
        with _interruptible(answer["server"]):
            ended = follow(client, answer["server"], answer["after"], quiet=as_json)
        _report_result(ended, as_json=as_json, line=True)


def _uuid_of(settings: Json | None) -> str:
    """Return the UUID in settings."""
    if settings is None:
        raise click.UsageError("UUID or --settings FILE is required.")
    uuid = settings["settings"].get("uuid")
    found = canonical_uuid(uuid) if isinstance(uuid, str) else None
    if found is None:
        raise click.UsageError("the settings have no valid settings.uuid.")
    return found


def _print_invitation(answer: Json, minutes: int) -> None:
    show(f"The server is expected for {duration(minutes * MINUTE)}. On the source node, run:\n")
    # Not wrapped, so that it can be copied.
    click.echo(f"  {answer['send']}\n")
    if not answer["url_is_certain"]:
        show(
            f"{answer['url']} is a guess: if the source cannot reach this node at it, replace it "
            "in the command, or set api.public_url."
        )
    show("The token is valid once. wingsctl cancel revokes it.")


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
    help="The token printed by wingsctl receive there; - reads it from standard input.",
)
@click.option(
    "--settings",
    type=SettingsFile(),
    metavar="FILE",
    help="The server's configuration, when this node's Panel has not sent it: JSON in the form of "
    "a Panel's answer.",
)
@click.option(
    "--delete",
    "remove",
    is_flag=True,
    help="Delete the server's files and container here after success. Backups stay.",
)
@click.option("--no-wait", is_flag=True, help="Return when the transfer has started.")
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
    """Send a server to another node, prepared with wingsctl receive.

    The server is stopped first. After success its files stay here unless --delete is given, and
    it cannot be started here. After a failure nothing stays on the other node. Its backups are not
    moved. The Panel is not involved.
    """
    client = client_of(context)
    request = {
        "server": server,
        "url": url,
        "token": token.removeprefix("Bearer ").strip(),
        "settings": settings,
        "remove": remove,
    }
    answer = client.ask("POST", "send", request)
    if no_wait:
        if as_json:
            print_json(answer)
        else:
            show(f"{server}: transfer started; see wingsctl show {server}")
            _print_backups(answer)
        return
    with _interruptible(server):
        ended = follow(client, server, answer["after"], quiet=as_json)
    stay = {"backups_stay_in": answer["backups_stay_in"]}
    _report_result(ended | stay, as_json=as_json)
    if not as_json:
        _print_backups(answer)


def _print_backups(answer: Json) -> None:
    """Print where backups stay, before the operator deletes the server."""
    show(f"Backups of the server, if any, stay on this node, in {answer['backups_stay_in']}.")


@contextmanager
def _interruptible(server: str) -> Iterator[None]:
    """Explain after Ctrl-C that the transfer continues."""
    try:
        yield
    except KeyboardInterrupt:
        raise CtlError(
            "interrupted; the transfer continues",
            f"cancel it with wingsctl cancel {server}",
            Exit.INTERRUPTED,
        ) from None


def _report_result(ended: Json, *, as_json: bool, line: bool = False) -> None:
    """Print the result of a transfer, and exit with it."""
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
        raise CtlError(f"{ended['server']}: transfer failed", plain(ended["reason"]))
