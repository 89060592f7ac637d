"""`wingsctl receive` and `send`: direct transfers, without a Panel."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.output import duration, json_option, plain, print_json, show, size, when
from wingsd.cli.parameters import SERVER, SettingsFile, daemon_client, node_url
from wingsd.cli.progress import follow, followed, moment
from wingsd.util.text import canonical_uuid

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
    type=node_url,
    metavar="URL",
    help="The address by which the source reaches this node, when api.public_url is not set.",
)
@click.option(
    "--minutes",
    type=click.IntRange(1, A_WEEK),
    default=60,
    show_default=True,
    help="Minutes within which the transfer must begin.",
)
@click.option(
    "--follow",
    "follows",
    is_flag=True,
    help="Allow a copy that follows the running server (send --follow), and start the server here "
    "when it moves.",
)
@click.option("--wait", is_flag=True, help="Show the progress, and return when it has ended.")
@json_option
def receive(
    *,
    server: str | None,
    settings: Json | None,
    addresses: tuple[str, ...],
    url: str | None,
    minutes: int,
    follows: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Expect a server, and print the command that sends it here.

    The token in the command is valid once. The Panel is not involved. UUID may be omitted with
    --settings.
    """
    client = daemon_client()
    request = {
        "server": server or _uuid_of(settings),
        "settings": settings,
        "addresses": addresses,
        "seconds": minutes * MINUTE,
    }
    if follows:  # which an older daemon does not know
        request["follow"] = True
    answer = client.ask("POST", "receive", request)
    address = url or answer["url"]
    answer |= {"url": address, "url_is_certain": url is not None or answer["url_is_certain"]}
    words = ["wingsctl", "send", answer["server"], "--to", address, "--token", answer["token"]]
    answer["send"] = shlex.join([*words, "--follow"] if follows else words)
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


def _token(context: click.Context, option: click.Parameter, value: str) -> str:
    """Return the token, which - has read from standard input."""
    given = sys.stdin.readline() if value == "-" else value
    token = given.removeprefix("Bearer ").strip()
    if not token:
        raise click.BadParameter(
            "it is empty: give what wingsctl receive has printed", context, option
        )
    return token


@click.command()
@click.argument("server", type=SERVER, metavar="UUID")
@click.option(
    "--to",
    "url",
    type=node_url,
    required=True,
    metavar="URL",
    help="The other node's address.",
)
@click.option(
    "--token",
    required=True,
    envvar="WINGSCTL_TOKEN",
    metavar="TOKEN",
    callback=_token,
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
    help="Delete the server's files and container here after success, but not its backups.",
)
@click.option(
    "--follow",
    "follows",
    is_flag=True,
    help="Keep a copy up to date there while the server is used as before; do not move it yet.",
)
@click.option(
    "--stop-at",
    type=moment,
    metavar="TIME",
    help="With --follow: move the server at that time, such as 04:30 or '2026-12-24 04:30'; with "
    "now as soon as the copy is whole.",
)
@click.option("--no-wait", is_flag=True, help="Return when the transfer has started.")
@json_option
def send(  # noqa: PLR0913 - one for each option
    *,
    server: str,
    url: str,
    token: str,
    settings: Json | None,
    remove: bool,
    follows: bool,
    stop_at: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Send a server to a node where wingsctl receive expects it.

    The server is stopped first, and not started there. After success its files stay here unless
    --delete is given, and it cannot be started here. While the other node is away or its disk is
    full, the transfer waits: see wingsctl transfers, or end it by wingsctl cancel. After a break
    it goes on by itself; after a failure the next one sends only missing data, if both nodes
    support moves that resume. Its local backups follow it afterwards. The Panel is not involved.

    With --follow nothing is stopped: a copy there is kept up to date, also after restarts, until
    --stop-at, a transfer that the Panel orders, or wingsctl cancel.
    """
    if stop_at is not None and not follows:
        raise click.UsageError("--stop-at needs --follow.")
    client = daemon_client()
    request: Json = {
        "server": server,
        "url": url,
        "token": token,
        "settings": settings,
        "remove": remove,
    }
    if follows:  # which an older daemon does not know
        request |= {"follow": True, "stop_at": stop_at}
    answer = client.ask("POST", "send", request)
    if follows:
        _report_following(client, answer, stop_at, waits=not no_wait, as_json=as_json)
        return
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


def _report_following(
    client: ControlClient, answer: Json, stop_at: float | None, *, waits: bool, as_json: bool
) -> None:
    """Print that a copy follows the server, or exit with the reason why none does."""
    server = answer["server"]
    with _interruptible(server):
        failed = followed(client, server, answer["after"]) if waits else None
    if failed is not None:
        _report_result(failed, as_json=as_json)
    elif as_json:
        print_json(answer)
    else:
        end = f"it is moved at {when(stop_at)}" if stop_at is not None else "a transfer ends that"
        show(f"{server}: a copy follows it; {end}, or wingsctl cancel; see wingsctl transfers")


def _print_backups(answer: Json) -> None:
    """Print where backups are, before the operator deletes the server, or the machine."""
    where = answer["backups_stay_in"]
    show(
        f"Local backups of the server are in {where}, and follow it from there if both nodes can. "
        "Before you delete them or the machine, see wingsctl backups."
    )


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
        # Of a move that was resumed, not the bytes that were there.
        sent = f"{size(ended['bytes'])}{' sent' if ended['direction'] == 'out' else ''}"
        show(f"{ended['server']}: moved: {ended['files']} files, {sent}, in {seconds}")
    if not moved:
        if as_json:
            sys.exit(Exit.FAILED)
        how = "was cancelled" if ended["outcome"] == "cancelled" else "failed"
        raise CtlError(f"{ended['server']}: transfer {how}", plain(ended["reason"]))
