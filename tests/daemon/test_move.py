"""A server moves from one real daemon to another."""

from __future__ import annotations

import pytest

from tests.support import Drop, Hang
from tests.support.archives import seen
from tests.support.browser import Browser, browse
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

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
