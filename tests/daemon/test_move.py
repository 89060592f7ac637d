"""A server moves from one real daemon to another."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from uuid import uuid4

import pytest

from tests.support import Drop, Hang
from tests.support.archives import seen
from tests.support.browser import Browser, browse
from tests.support.node_process import FAST
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes
from wingsd.config import PELICAN

BACKUP_UUID = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
BACKUP = f"{BACKUP_UUID}.tar.gz"


def texts(browser: Browser, event: str) -> list[str]:
    return [entry.args[0] for entry in browser.events if entry.event == event]


async def test_a_server_moves_whole_and_leaves_nothing_behind(nodes: TwoNodes) -> None:
    nodes.add_server()
    before = seen(nodes.source.files())
    await nodes.start()
    browser = await browse(nodes.source, UUID, ("*", "admin.websocket.transfer"))
    await nodes.transfer()
    await browser.wait_for("transfer status", "completed")
    await browser.wait_closed()
    assert texts(browser, "transfer status") == ["processing", "success", "completed"]
    assert any("[Source Node]" in line for line in texts(browser, "transfer logs"))
    assert seen(nodes.destination.files()) == before
    await nodes.destination.wait_for_line("state success")
    assert nodes.panel.node_of(UUID) is nodes.destination.node
    assert nodes.panel.reports() == [(UUID, "success")]
    assert nodes.panel.deletions == [(UUID, 204)]
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert nodes.source.paths_of_server() == []
    status, _ = await nodes.panel.ask(nodes.source.node, "GET", f"/api/servers/{UUID}")
    assert status == 404
    status, answer = await nodes.panel.ask(nodes.destination.node, "GET", f"/api/servers/{UUID}")
    assert status == 200
    # The settings of after the move, with this node's allocation.
    assert answer["configuration"]["allocations"]["default"]["port"] == 25566


@pytest.mark.promise("size-is-counted-alike")
async def test_the_size_of_a_received_server_is_not_measured(nodes: TwoNodes) -> None:
    nodes.add_server(size=2_000_000)
    await nodes.start()
    destination = nodes.destination
    destination.throttle(400_000)
    await nodes.transfer()
    await destination.wait_for_line("receiving the archive")
    status, (server,) = await nodes.panel.ask(destination.node, "GET", "/api/servers")
    assert (status, server["state"]) == (200, "offline")
    destination.throttle(FAST)
    await destination.wait_for_line("state success")
    status, server = await nodes.panel.ask(destination.node, "GET", f"/api/servers/{UUID}")
    assert (status, server["utilization"]["disk_bytes"]) == (200, 2_000_000)
    assert not destination.lines_with("measuring")


@pytest.mark.parametrize(
    ("asked", "arrives"), [({}, f"{UUID}/{BACKUP}"), ({"archive_format": "tar_lz4"}, BACKUP)]
)
async def test_backups_and_the_install_log_move_with_the_server(
    nodes: TwoNodes, asked: dict[str, str], arrives: str
) -> None:
    nodes.add_server()
    data = random.Random("backup").randbytes(3_000_000)
    (nodes.source.directory / "backups").mkdir()
    (nodes.source.directory / "backups" / BACKUP).write_bytes(data)
    log = nodes.source.directory / "logs" / "install" / f"{UUID}.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"installed\n")
    await nodes.start()
    await nodes.panel.transfer(UUID, nodes.destination.node, backups=[BACKUP_UUID], **asked)
    await nodes.destination.wait_for_line("state success")
    assert (nodes.destination.directory / "backups" / arrives).read_bytes() == data
    installed = nodes.destination.directory / "logs" / "install" / f"{UUID}.log"
    assert installed.read_bytes() == b"installed\n"


async def test_a_server_moves_to_and_fro_in_each_archive_format(nodes: TwoNodes) -> None:
    nodes.add_server()
    before = seen(nodes.source.files())
    await nodes.start()
    here, there = nodes.source, nodes.destination
    for form in ("tar", "tar_xz", "tar_bz2", "tar_lz4", "tar_zstd"):
        marks = len(here.log), len(there.log)
        await nodes.panel.transfer(
            UUID, there.node, archive_format=form, compression_level="good_speed"
        )
        await here.wait_for_line(f"{UUID}: files deleted", marks[0])
        await there.wait_for_line("state success", marks[1])
        assert seen(there.files()) == before
        assert here.paths_of_server() == []
        here, there = there, here


async def test_the_reason_of_a_refusal_is_shown_at_the_source(nodes: TwoNodes) -> None:
    await nodes.start()
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    nodes.panel.strict = True
    hang = nodes.panel.hold("/transfer/success")
    browser = await browse(nodes.source, UUID, ("*", "admin.websocket.transfer"))
    await nodes.transfer()
    await nodes.panel.called("/transfer/success")
    nodes.panel.close_transfer(UUID)
    hang.release()
    await browser.wait_for("transfer status", "failed")
    said = "\n".join(texts(browser, "transfer logs"))
    assert "the Panel has closed this transfer" in said
    # To the destination the Panel has said so itself; the source tells it.
    await nodes.destination.wait_for_line("cleaned up")
    await nodes.source.wait_for_line("state failure")
    first, *others = nodes.panel.reports()
    assert (first, set(others)) == ((UUID, "success"), {(UUID, "failure")})
    assert nodes.panel.node_of(UUID) is nodes.source.node
    assert nodes.source.files().is_dir()


@pytest.mark.promise("lost-answer-is-asked-for")
async def test_a_success_whose_answer_is_lost_is_not_rolled_back(nodes: TwoNodes) -> None:
    await nodes.start()
    # The Panel moves the server, but its word of that is lost on the way, and the destination
    # dies before it hears it again.
    nodes.panel.inject("/transfer/success", Drop(carried_out=True))
    nodes.panel.inject("/transfer/success", Hang())
    nodes.source.node.reachable = False  # no word of the deletion either
    await nodes.transfer()
    await nodes.panel.called("/transfer/success", times=2)
    nodes.destination.signal("KILL")
    await nodes.source.wait_for_line("only the destination's answer was lost")
    await nodes.source.wait_for_line("state success")
    assert (UUID, "failure") not in nodes.panel.reports()
    assert nodes.source.files().is_dir()


async def test_a_destination_that_dies_leaves_the_server_where_it_was(nodes: TwoNodes) -> None:
    nodes.add_server(4_000_000)
    nodes.source.transfers = {"moves": {"patience": 1}}
    await nodes.start()
    nodes.destination.throttle(400_000)
    await nodes.transfer()
    await nodes.destination.wait_for_line("receiving the archive")
    nodes.destination.signal("KILL")
    await nodes.source.wait_for_line("the server stays here")
    await nodes.source.wait_for_line("the failure was reported to the Panel")
    assert nodes.panel.reports() == [(UUID, "failure")]
    path = f"/api/servers/{UUID}"
    status, answer = await nodes.panel.ask(nodes.source.node, "GET", path)
    assert (status, answer["state"]) == (200, "offline")


async def test_a_source_stopped_before_success_still_deletes_its_copy(nodes: TwoNodes) -> None:
    await nodes.start()
    hang = nodes.panel.hold("/transfer/success")
    await nodes.transfer()
    await nodes.panel.called("/transfer/success")
    nodes.source.signal("TERM")
    await nodes.source.wait_for_line("Received SIGTERM")
    hang.release()
    await nodes.source.ended()
    assert nodes.panel.deletions == [(UUID, 204)]
    assert not nodes.source.files().exists()
    assert not nodes.source.lines_with("Unhandled")


@pytest.mark.promise("dropped-backups-are-kept-for-days")
async def test_backups_that_pelicans_page_dropped_are_named_and_deleted_after_the_days(
    nodes: TwoNodes,
) -> None:
    """Its page names those that were ticked, and deletes its records of all others."""
    source, panel = nodes.source, nodes.panel
    nodes.add_server()
    off = {"system": {"transfers": {"backups_follow": False}}}
    await nodes.start({"family": PELICAN}, {"family": PELICAN} | off)
    backups = [str(uuid4()) for _ in range(3)]
    for backup in backups:
        panel.backups.add(backup, UUID)
        order = {"adapter": "wings", "uuid": backup, "ignore": ""}
        await panel.ask(source.node, "POST", f"/api/servers/{UUID}/backup", order)
    await until(lambda: all(panel.backups.known[each].is_over for each in backups))
    ticked, dropped, again = backups
    await panel.transfer(UUID, nodes.destination.node, backups=[ticked])
    for backup in (dropped, again):
        del panel.backups.known[backup]
    await source.wait_for_line(f"{UUID}: files deleted")
    shown = "the Panel has no record of it; its server moved to another node"
    while (await source.wingsctl("backups")).out.count(shown) < 2:
        pass  # The transfer is recorded as ended a moment later.
    # Somebody brings a record back before the days are over.
    panel.backups.add(again, UUID)
    await source.kill()
    with closing(sqlite3.connect(source.directory / "wingsd.db")) as database, database:
        database.execute("UPDATE left_backups SET age = ?, missed = 0", (2 * 24 * 3600.0,))
    await source.start_loaded(family=PELICAN)
    await until(lambda: not (source.directory / f"backups/{UUID}/{dropped}.tar.gz").exists())
    listed = (await source.wingsctl("backups", "--json")).json["backups"]
    assert {each["backup"]: each["dropped_since"] is not None for each in listed} == {
        ticked: False,
        again: True,
    }


@pytest.mark.promise("attached-backups-arrive-whole")
async def test_a_backup_that_moved_along_is_restored_at_the_destination(nodes: TwoNodes) -> None:
    nodes.add_server()
    before = seen(nodes.source.files())
    await nodes.start()
    nodes.panel.backups.add(BACKUP_UUID, UUID)
    order = {"adapter": "wings", "uuid": BACKUP_UUID, "ignore": ""}
    await nodes.panel.ask(nodes.source.node, "POST", f"/api/servers/{UUID}/backup", order)
    await until(lambda: nodes.panel.backups.known[BACKUP_UUID].is_over)
    await nodes.panel.transfer(UUID, nodes.destination.node, backups=[BACKUP_UUID])
    await nodes.destination.wait_for_line("state success")
    await until(lambda: not nodes.panel.in_transfer(UUID))
    (nodes.destination.files() / "world/region.mca").unlink()
    await nodes.panel.restore(UUID, BACKUP_UUID, truncate_directory=True)
    await until(lambda: nodes.panel.restored(UUID) is not None)
    assert nodes.panel.restored(UUID) is True
    assert seen(nodes.destination.files()) == before
