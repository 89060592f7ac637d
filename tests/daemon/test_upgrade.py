"""A node of version 0.1.0 is updated: the daemon starts on its state database and its files."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support import release_0_1_0 as release
from tests.support import server_settings
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from wingsd.statedb import FILE

pytestmark = pytest.mark.promise("update-loses-nothing")

#: The servers of the transfers that were under way, by direction and step.
SERVER = {state: server for server, state in release.UNFINISHED.items()}
SWAPPED = [SERVER["in", step] for step in ("SWAP", "ENVIRONMENT", "REPORT")]
LOST = [SERVER["in", step] for step in ("ADMIT", "RECEIVE", "VERIFY", "DURABLE", "FAILED")]
#: The Panel has the last of these on the other node.
STAYING = [SERVER["out", step] for step in ("ASK", "STOP", "RETIRE", "SETTLE")]
MOVED = SERVER["out", "SEND"]
#: A backup that has come with the server in the step SWAP.
RECEIVED = "99999999-0000-4000-8000-000000000010"
#: Archive of a backup, which nothing reads here.
ARCHIVE = b"a backup of an earlier node daemon"
#: Seconds ago that the node of 0.1.0 was stopped: the Panel's transfers are long committed.
AGO = 3600


def make_files(path: Path, content: bytes = b"of the game") -> None:
    path.mkdir(parents=True)
    (path / "world").write_bytes(content)


def leave_files(daemon: ReceivingNode) -> None:
    """Put everything where 0.1.0 had it, beside its database."""
    daemon.volumes.mkdir()
    daemon.staging.mkdir(mode=0o700)
    for step in ("RECEIVE", "VERIFY", "DURABLE", "SWAP"):
        make_files(daemon.staging / SERVER["in", step])
    make_files(daemon.staging / f"{SERVER['in', 'FAILED']}.discarded")
    make_files(daemon.staging / ".quarantine" / release.QUARANTINED)
    here = [*SWAPPED[1:], *STAYING, MOVED, release.DIRECT_IN, release.DIRECT_OUT]
    here += [release.CAME, release.CAME_DIRECTLY, release.SENT_DIRECTLY, release.FAILED]
    for server in here:
        make_files(daemon.volumes / server)
    backups = daemon.directory / "backups"
    for server in (MOVED, release.CAME):
        (backups / server).mkdir(parents=True)
        (backups / server / f"{release.BACKUP}.tar.gz").write_bytes(ARCHIVE)
    name = sha256(f"{daemon.uuid}:{daemon.volumes}".encode()).hexdigest()[:16]
    staged = backups / f".wingsd-{name}" / SWAPPED[0] / SWAPPED[0] / f"{RECEIVED}.tar.gz"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(ARCHIVE)


def leave_database(daemon: ReceivingNode) -> None:
    """Write the database, with the inodes of the servers' directories."""
    release.write(daemon.directory, time.time() - AGO)
    places = [daemon.staging / SWAPPED[0], *daemon.volumes.iterdir()]
    with closing(sqlite3.connect(daemon.directory / FILE)) as database, database:
        for path in places:
            change = "UPDATE transfers SET inode = ? WHERE server = ? AND step != 'ASK'"
            database.execute(change, (str(path.stat().st_ino), path.name))


def tell_panel(daemon: ReceivingNode) -> None:
    """Let the Panel know of the servers, and of the transfers that are open."""
    panel = daemon.panel
    for server in (*SWAPPED, *LOST):
        daemon.expect(server)
    for server in (*STAYING, release.CAME, release.SENT_DIRECTLY, release.DIRECT_OUT):
        panel.add_server(server_settings(server), daemon.node)
    panel.add_server(server_settings(release.FAILED), daemon.node)
    panel.add_server(server_settings(MOVED), daemon.source)
    for server in STAYING:
        panel.open_transfer(server, daemon.source)


def outcomes(daemon: ReceivingNode) -> dict[str, str | None]:
    with closing(sqlite3.connect(daemon.directory / FILE)) as database:
        return dict(database.execute("SELECT server, outcome FROM transfers"))


async def test_an_updated_node_ends_each_transfer_and_has_all_it_had(
    daemon: ReceivingNode,
) -> None:
    leave_files(daemon)
    leave_database(daemon)
    tell_panel(daemon)
    panel = daemon.panel
    await daemon.start_loaded()
    await until(lambda: [*outcomes(daemon).values()].count(None) == 1)

    ended = outcomes(daemon)
    # Its destination does not answer: it is asked again, and the server is held.
    assert ended.pop(release.DIRECT_OUT) is None
    failed = {server for server, outcome in ended.items() if outcome == "failure"}
    assert failed == {*LOST, *STAYING, release.FAILED}
    await until(lambda: not any(map(panel.in_transfer, release.UNFINISHED)))
    # A success that waited in the database may come once more, from its transfer.
    assert set(panel.reports()) == {
        *((server, "success") for server in SWAPPED),
        *((server, "failure") for server in (*LOST, *STAYING)),
    }

    # Servers and their files.
    assert all(panel.node_of(server) is daemon.node for server in (*SWAPPED, *STAYING))
    here = {*SWAPPED, *STAYING, release.DIRECT_IN, release.DIRECT_OUT, release.CAME}
    here |= {release.CAME_DIRECTLY, release.SENT_DIRECTLY, release.FAILED}
    assert {path.name for path in daemon.volumes.iterdir()} == here
    assert all((daemon.volumes / server / "world").exists() for server in here)
    await until(lambda: set(os.listdir(daemon.staging)) <= {".lock", ".quarantine"})
    quarantined = {path.name for path in (daemon.staging / ".quarantine").iterdir()}
    assert release.QUARANTINED in quarantined
    (moved,) = quarantined - {release.QUARANTINED}
    assert moved.startswith(f"{MOVED}.")

    # Backups: of the moved server none, as ordered; that of a received server is in its place.
    listed = (await daemon.wingsctl("backups", "--json")).json["backups"]
    places = [f"{SWAPPED[0]}/{RECEIVED}.tar.gz", f"{release.CAME}/{release.BACKUP}.tar.gz"]
    backups = daemon.directory / "backups"
    assert {backup["path"] for backup in listed} == {str(backups / place) for place in places}
    assert all(Path(backup["path"]).read_bytes() == ARCHIVE for backup in listed)

    # What a node may not start: the server may be, or is, on another one.
    for server in (release.DIRECT_OUT, release.SENT_DIRECTLY):
        shown = (await daemon.wingsctl("show", server, "--json")).json
        assert shown["server"]["hold"]
    shown = (await daemon.wingsctl("show", release.CAME_DIRECTLY, "--json")).json
    assert (shown["server"]["by_hand"], shown["server"]["hold"]) == (True, "")
    assert not daemon.lines_with("Traceback")
