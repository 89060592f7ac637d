"""`wingsctl backups` and `verify`: the backups on this node."""

from __future__ import annotations

import time
from typing import Any

import click

from wingsd.cli import output
from wingsd.cli.client import CtlError, Exit
from wingsd.cli.output import json_option, print_json, size
from wingsd.cli.parameters import SERVER, client_of
from wingsd.util.text import canonical_uuid

__all__ = ["backups", "verify"]

Json = dict[str, Any]

#: Seconds between two looks at a check.
POLL_INTERVAL = 0.5


@click.command()
@click.argument("server", type=SERVER, metavar="[UUID]", required=False)
@json_option
@click.pass_context
def backups(context: click.Context, *, server: str | None, as_json: bool) -> None:
    """List the backups on this node, of all servers or of one.

    Of a backup without a catalogue, such as Wings makes, neither its files nor its state is known.
    """
    query = f"?server={server}" if server else ""
    found = client_of(context).ask("GET", f"backups{query}")
    if as_json:
        print_json(found)
        return
    for each in found["making"]:
        output.show(f"{each['backup']}: being made, of {each['server']}")
    if found["backups"]:
        output.show(output.backups(found["backups"]))
    elif not found["making"]:
        output.show("no backups on this node")


class _Backup(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions
    """A backup's UUID."""

    name = "backup"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the UUID in lower case. Fails when it is invalid."""
        uuid = canonical_uuid(value)
        if uuid is None:
            self.fail(f"{value!r} is not a UUID", param, ctx)
        return uuid


@click.command()
@click.argument("backup", type=_Backup(), metavar="BACKUP")
@json_option
@click.pass_context
def verify(context: click.Context, *, backup: str, as_json: bool) -> None:
    """Read a backup to its end, and say whether it is whole.

    Its checksum is compared, its compressed data is checked, and all its members are looked at.
    Nothing is changed but its catalogue. The exit status is 1 for a damaged one.
    """
    client = client_of(context)
    found: Json = client.ask("POST", f"backups/{backup}/verify")
    with output.console(stderr=True, quiet=as_json).status("verifying") as shown:
        while found["whole"] is None:
            shown.update(f"verifying: {size(found['bytes'])} of {size(found['total_bytes'])}")
            time.sleep(POLL_INTERVAL)
            found = client.ask("GET", f"backups/{backup}/verify")
    if as_json:
        print_json(found)
    else:
        files = "not read" if found["files"] is None else str(found["files"])
        facts = [
            ("backup", backup),
            ("bytes", size(found["total_bytes"])),
            ("files", files),
            ("sha256", found["sha256"] or "-"),
            ("state", "whole" if found["whole"] else "DAMAGED"),
        ]
        output.show(output.facts(facts))
    if not found["whole"]:
        raise CtlError(
            "the backup is damaged",
            f"{found['fault']}; make another one, and see the disk's health",
            Exit.FAILED,
        )
