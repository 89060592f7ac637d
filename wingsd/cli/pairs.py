"""`wingsctl pair` and `maintenance`: the nodes that may send copies here, and a switch for all."""

from __future__ import annotations

import shlex
from urllib.parse import quote

import click

from wingsd.cli import output
from wingsd.cli.client import ControlClient, Json
from wingsd.cli.output import json_option, print_json, show, size, when
from wingsd.cli.parameters import byte_size, daemon_client, node_url


@click.group(invoke_without_command=True)
@click.option("--from", "name", metavar="NAME", default="", help="How this node calls the source.")
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=30,
    show_default=True,
    help="Days after which the pair ends.",
)
@click.option(
    "--bytes",
    "limit",
    type=byte_size,
    metavar="SIZE",
    help="How much all its copies may take here, such as 200GiB. The default is what is free now.",
)
@click.option(
    "--servers",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Of how many servers it may have copies here.",
)
@click.option(
    "--url",
    type=node_url,
    metavar="URL",
    help="The address by which the source reaches this node, when api.public_url is not set.",
)
@click.option(
    "--accept",
    type=(node_url, str),
    metavar="URL KEY",
    help="Become the source of a pair: as wingsctl pair at the destination has printed it.",
)
@json_option
@click.pass_context
def pair(
    context: click.Context,
    *,
    name: str,
    days: int,
    limit: int | None,
    servers: int,
    url: str | None,
    accept: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Let another node send copies of its servers here, and print the command for it.

    Run it on the destination, and the printed command on the source. A pair begins copies, keeps
    them current and ends them, and does nothing else: a server moves when the Panel orders that,
    or by wingsctl receive.
    """
    if context.invoked_subcommand is not None:
        return
    client = daemon_client()
    if accept is not None:
        _accept(client, *accept, as_json=as_json)
        return
    body = {"name": name, "days": days, "bytes": limit or 0, "servers": servers}
    made = client.ask("POST", "pairs", body)
    address = url or made["url"]
    made |= {"url": address, "url_is_certain": url is not None or made["url_is_certain"]}
    made["accept"] = shlex.join(["wingsctl", "pair", "--accept", address, made["key"]])
    if as_json:
        print_json(made)
        return
    show(
        f"The pair {made['name']} may bring copies of {made['servers']} servers with "
        f"{size(made['bytes'])} here, until {when(made['expires'])}. On the source node, run:\n"
    )
    # Not wrapped, so that it can be copied.
    click.echo(f"  {made['accept']}\n")
    if not made["url_is_certain"]:
        show(
            f"{address} is a guess: if the source cannot reach this node at it, replace it in the "
            "command, or set api.public_url."
        )
    show(f"The key is shown once. wingsctl pair revoke {made['name']} ends the pair.")


def _accept(client: ControlClient, url: str, key: str, *, as_json: bool) -> None:
    made = client.ask("POST", "pairs/accept", {"url": url, "key": key.strip()})
    text = (
        f"This node may send copies of {made['servers']} servers with {size(made['bytes'])} to "
        f"{made['name']}, where it is called {made['peer']}, until {when(made['expires'])}."
    )
    output.answer(made, as_json, text)


@pair.command("list")
@json_option
def list_pairs(*, as_json: bool) -> None:
    """List the pairs: the nodes that may send copies here, and those that take this node's."""
    found = daemon_client().ask("GET", "pairs")
    if as_json:
        print_json(found)
    elif found["pairs"]:
        show(output.pairs(found["pairs"]))
    else:
        show("no pairs")


@pair.command()
@click.argument("name")
@click.option(
    "--direction",
    type=click.Choice(["in", "out"]),
    default=None,
    help="Which of two pairs that have one name.",
)
@json_option
def revoke(*, name: str, direction: str | None, as_json: bool) -> None:
    """End a pair and the copies that follow servers by it.

    At the destination all copies that came by it are removed; at the source its key is.
    """
    query = f"?direction={direction}" if direction else ""
    daemon_client().ask("DELETE", f"pairs/{quote(name, safe='')}{query}")
    output.answer({"name": name, "revoked": True}, as_json, f"{name}: revoked")


@click.command()
@click.argument("state", type=click.Choice(["on", "off", "status"]))
@click.option("--why", default="", metavar="TEXT", help="The reason, for those who are refused.")
@json_option
def maintenance(*, state: str, why: str, as_json: bool) -> None:
    """Take no servers on this node, until that is switched off.

    Servers are neither created on it nor transferred to it, and the Panel shows why. Those that it
    has run on, and can be transferred away.
    """
    client = daemon_client()
    if state == "on":
        client.ask("PUT", "maintenance", {"why": why})
    elif state == "off":
        client.ask("DELETE", "maintenance")
    found: Json = client.ask("GET", "maintenance")
    reason = f": {output.plain(found['why'])}" if found["why"] else ""
    is_on = f"in maintenance since {when(found['since'])}{reason}: it takes no servers"
    text = f"this node is {is_on}" if found["since"] is not None else "this node takes servers"
    output.answer(found, as_json, text)
