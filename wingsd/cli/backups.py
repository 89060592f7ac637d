"""`wingsctl backups` and `verify`: the backups on this node, listed, checked and rewritten."""

from __future__ import annotations

import time
from collections import Counter

import click

from wingsd.cli import output
from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.output import json_option, print_json, size, when
from wingsd.cli.parameters import OPTIONAL_SERVER, UUID, ServerGroup, daemon_client

#: Seconds between two looks at a check.
POLL_INTERVAL = 0.5


@click.group(cls=ServerGroup, invoke_without_command=True)
@click.argument("server", type=OPTIONAL_SERVER, metavar="[UUID]", required=False)
@json_option
@click.pass_context
def backups(context: click.Context, *, server: str | None, as_json: bool) -> None:
    """List the backups on this node, of all servers or of one.

    The number of files and the state are unknown of a backup without a catalogue, such as one of
    Wings. Backups whose servers have moved away are listed with what becomes of them, and so are
    those that are on their way to this node.
    """
    if context.invoked_subcommand is not None:
        return
    query = f"?server={server}" if server else ""
    found = daemon_client().ask("GET", f"backups{query}")
    if as_json:
        print_json(found)
        return
    for each in found["making"]:
        output.show(f"{each['backup']}: being made, of {each['server']}")
    coming = found.get("coming", [])  # which an older daemon does not send
    if found["backups"]:
        output.show(output.backups(found["backups"]))
    elif not found["making"] and not coming:
        output.show(f"no backups{f' of {server}' if server else ''} on this node")
    for each in coming:
        line = f"{each['backup']}: on its way here, of {each['server']}, {size(each['bytes'])}"
        onward = _left(each, found)
        output.show(line if onward is None else f"{line}; {onward}")
    for each in found["backups"]:
        if (onward := _left(each, found)) is not None:
            output.show(f"{each['backup']}: {onward}")


def _left(backup: Json, found: Json) -> str | None:
    """Return what becomes of a backup whose server has moved away; None for another one."""
    since, left = backup.get("dropped_since"), backup.get("left")
    if since is not None:
        dropped = f"the Panel has no record of it; its server moved to another node, {when(since)}"
        if not found.get("deletes_dropped", True):
            return f"{dropped}; it stays (system.backups.remove_backups_on_server_delete)"
        return (
            f"{dropped}; its {size(backup['bytes'])} are deleted after "
            f"{found['dropped_kept_days']} days, when the Panel has confirmed that twice"
        )
    return None if left is None else follows(left, backup["bytes"])


def follows(left: Json, total: int) -> str:
    """Return how far a backup, or a history of so many bytes, is that follows its server."""
    where = (left["destination"] or "another node").removesuffix("/api/transfers")
    if left["state"] == "kept":
        return f"its server moved to {where}; it stays here, as an operator has said"
    if left["state"] == "done":
        return "not needed here any more, and being removed"
    why = f"; it waits: {left['waits_for']}" if left["waits_for"] else ""
    sent = f", {size(left['sent_bytes'])} of {size(total)} are there"
    return f"follows its server to {where}{sent if left['sent_bytes'] else ''}{why}"


@backups.command()
@click.argument("backup", type=UUID, metavar="BACKUP")
@json_option
def send(*, backup: str, as_json: bool) -> None:
    """Send a backup after its server, which has moved away, whatever the Panel says of it."""
    found = daemon_client().ask("POST", f"backups/{backup}/send")
    output.answer(found, as_json, f"{backup}: it is sent to its server's node")


@backups.command()
@click.argument("backup", type=UUID, metavar="BACKUP")
@json_option
def keep(*, backup: str, as_json: bool) -> None:
    """Keep a backup on this node, although its server has moved away.

    It is neither sent nor deleted. The Panel goes on listing it, and cannot use it.
    """
    found = daemon_client().ask("POST", f"backups/{backup}/keep")
    output.answer(found, as_json, f"{backup}: it stays here")


@backups.command()
@click.argument("backup", type=UUID, metavar="BACKUP")
@json_option
def delete(*, backup: str, as_json: bool) -> None:
    """Delete a backup that its server has left on this node, and does not get any more.

    Of one that is on its way to this node, nothing more is expected: its source keeps it. Those of
    servers of this node are deleted in the Panel.
    """
    found = daemon_client().ask("DELETE", f"backups/{backup}")
    output.answer(found, as_json, f"{backup}: deleted")


@backups.command("for-wings")
@click.argument("uuids", type=UUID, metavar="[UUID...]", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="All backups on this node.")
@json_option
def for_wings(*, uuids: tuple[str, ...], all_of_them: bool, as_json: bool) -> None:
    """Rewrite backups so that Wings can restore them, before this node goes back to it.

    UUID is that of a backup, or of a server for all of its backups. Wings restores regular files
    alone: hard links become whole copies, and symlinks, empty directories and the modes of
    directories are lost. Each backup is replaced when its new archive is complete; those that
    Wings can restore already stay. A backup that is a point of a history becomes an archive. The
    command may be interrupted and run again at any time.
    """
    if bool(uuids) == all_of_them:
        raise click.UsageError("name backups or servers by their UUIDs, or all with --all")
    client = daemon_client()
    chosen = _chosen(client.ask("GET", "backups"), uuids)
    ended: list[Json] = []
    for number, each in enumerate(chosen, 1):
        done = _rewritten(client, each, f"{number} of {len(chosen)}", quiet=as_json)
        ended.append(done)
        if not as_json:
            output.show(f"{each}: {_outcome(done)}")
    count = Counter(each["state"] for each in ended)
    output.answer(
        {"backups": ended},
        as_json,
        f"{count['rewritten']} rewritten, {count['unchanged']} in this form already, "
        f"{count['failed']} failed",
    )
    if count["failed"]:
        raise CtlError(
            "not all backups were rewritten",
            "those that failed are as they were, and Wings cannot restore them; do what is said "
            "above, and run the command again",
        )


def _chosen(found: Json, uuids: tuple[str, ...]) -> list[str]:
    """Return the backups to be rewritten. Raises `CtlError` for a UUID that names none."""
    stored = found["backups"] + found["making"]
    for uuid in uuids:
        if not any(uuid in (each["backup"], each["server"]) for each in stored):
            raise CtlError(
                f"{uuid} is neither a backup on this node nor a server that has one",
                "`wingsctl backups` lists them",
                Exit.UNKNOWN,
            )
    names = (
        each["backup"]
        for each in stored
        if not uuids or each["backup"] in uuids or each["server"] in uuids
    )
    return list(dict.fromkeys(names))


def _rewritten(client: ControlClient, backup: str, number: str, *, quiet: bool) -> Json:
    """Ask the daemon to rewrite a backup; return the outcome."""
    path = f"backups/{backup}/for-wings"
    try:
        found: Json = client.ask("POST", path)
        with output.console(stderr=True, quiet=quiet).status("rewriting") as shown:
            while found["state"] == "rewriting":
                done = f"{size(found['bytes'])} of {size(found['total_bytes'])}"
                shown.update(f"rewriting {number}, {backup}: {done}")
                time.sleep(POLL_INTERVAL)
                found = client.ask("GET", path)
    except CtlError as error:
        if error.exit_code not in (Exit.FAILED, Exit.UNKNOWN):
            raise
        detail = f": {error.detail}" if error.detail else ""
        return {"backup": backup, "state": "failed", "fault": f"{error.message}{detail}"}
    return found


def _outcome(done: Json) -> str:
    if done["state"] == "failed":
        return f"FAILED: {done['fault']}"
    if done["state"] == "unchanged":
        return "is in this form already"
    told = f"; {done['not_kept']}" if done["not_kept"] else ""
    return f"rewritten, {size(done['total_bytes'])} to {size(done['new_bytes'])}{told}"


@click.command()
@click.argument("backup", type=UUID, metavar="BACKUP")
@json_option
def verify(*, backup: str, as_json: bool) -> None:
    """Read a backup to its end, and say whether it is whole.

    Its checksum is compared, and its compressed data and all its members are checked. Only its
    catalogue is changed. The exit status is 1 if the backup is damaged.
    """
    client = daemon_client()
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
