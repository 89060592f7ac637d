"""A server moves from one real daemon to another."""

from __future__ import annotations

import random
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import Certificate

from tests.archives import seen
from tests.daemon.daemon import reactor
from tests.daemon.harness import UUID
from tests.daemon.pair import Pair
from tests.support import Drop, Hang
from tests.support.browser import Browser

BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11.tar.gz"


async def watch(pair: Pair) -> Browser:
    """Return a browser that watches the server at its source."""
    source = pair.source
    address = source.node.address.replace("https", "wss")
    authority = Certificate.loadPEM(source.authority.read_bytes())
    browser = Browser(
        f"{address}/api/servers/{UUID}/ws",
        pair.panel.console_token(UUID, ("*", "admin.websocket.transfer")),
        pair.panel.url,
        authority,
    )
    await browser.connect(reactor)
    await browser.auth()
    return browser


def texts(browser: Browser, event: str) -> list[str]:
    return [entry.args[0] for entry in browser.events if entry.event == event]


@pytest_twisted.ensureDeferred
async def test_a_server_moves_whole_and_leaves_nothing_behind(pair: Pair) -> None:
    pair.add_server()
    before = seen(pair.source.files())
    await pair.start()
    browser = await watch(pair)
    await pair.transfer()
    await browser.wait_for("transfer status", "completed")
    await browser.wait_closed()
    assert texts(browser, "transfer status") == ["processing", "success", "completed"]
    assert any("[Source Node]" in line for line in texts(browser, "transfer logs"))
    assert seen(pair.destination.files()) == before
    await pair.destination.wait_for_line("state success")
    assert pair.panel.node_of(UUID) is pair.destination.node
    assert pair.panel.reports() == [(UUID, "success")]
    assert pair.panel.deletions == [(UUID, 204)]
    await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    assert pair.source.left() == []
    status, _ = await pair.panel.ask(pair.source.node, "GET", f"/api/servers/{UUID}")
    assert status == 404
    status, answer = await pair.panel.ask(pair.destination.node, "GET", f"/api/servers/{UUID}")
    assert status == 200
    # The settings of after the move, with this node's allocation.
    assert answer["configuration"]["allocations"]["default"]["port"] == 25566


@pytest_twisted.ensureDeferred
async def test_its_size_is_known_when_it_is_here_and_nobody_looks_for_it_before(
    pair: Pair,
) -> None:
    pair.add_server(size=2_000_000)
    await pair.start()
    destination = pair.destination
    assert destination.line
    destination.line.bytes_per_second = 400_000
    await pair.transfer()
    await destination.wait_for_line("receiving the archive")
    status, (server,) = await pair.panel.ask(destination.node, "GET", "/api/servers")
    assert (status, server["state"]) == (200, "offline")
    destination.line.bytes_per_second = float("inf")
    await destination.wait_for_line("state success")
    status, server = await pair.panel.ask(destination.node, "GET", f"/api/servers/{UUID}")
    assert (status, server["utilization"]["disk_bytes"]) == (200, 2_000_000)
    assert not [line for line in destination.log if "measuring" in line]


@pytest.mark.parametrize(
    ("asked", "arrives"), [({}, f"{UUID}/{BACKUP}"), ({"archive_format": "tar_lz4"}, BACKUP)]
)
@pytest_twisted.ensureDeferred
async def test_its_backups_and_its_log_move_with_it(
    pair: Pair, asked: dict[str, str], arrives: str
) -> None:
    pair.add_server()
    data = random.Random("backup").randbytes(3_000_000)
    (pair.source.directory / "backups").mkdir()
    (pair.source.directory / "backups" / BACKUP).write_bytes(data)
    log = pair.source.directory / "logs" / "install" / f"{UUID}.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"installed\n")
    await pair.start()
    uuid = BACKUP.removesuffix(".tar.gz")
    await pair.panel.transfer(UUID, pair.destination.node, backups=[uuid], **asked)
    await pair.destination.wait_for_line("state success")
    assert (pair.destination.directory / "backups" / arrives).read_bytes() == data
    installed = pair.destination.directory / "logs" / "install" / f"{UUID}.log"
    assert installed.read_bytes() == b"installed\n"


@pytest.mark.parametrize("form", ["tar", "tar_xz", "tar_bz2", "tar_lz4", "tar_zstd"])
@pytest_twisted.ensureDeferred
async def test_a_server_moves_in_the_format_that_the_panel_asks_for(pair: Pair, form: str) -> None:
    pair.add_server()
    before = seen(pair.source.files())
    await pair.start()
    await pair.panel.transfer(
        UUID, pair.destination.node, archive_format=form, compression_level="good_speed"
    )
    await pair.destination.wait_for_line("state success")
    assert seen(pair.destination.files()) == before


@pytest_twisted.ensureDeferred
async def test_it_can_move_there_and_back(pair: Pair) -> None:
    pair.add_server()
    before = seen(pair.source.files())
    await pair.start()
    await pair.transfer()
    await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    await pair.destination.wait_for_line("state success")
    await pair.panel.transfer(UUID, pair.source.node)
    await pair.source.wait_for_line(f"{UUID}: received")
    await pair.destination.wait_for_line(f"{UUID}: its files are deleted")
    assert seen(pair.source.files()) == before
    assert pair.destination.left() == []


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_read_at_the_source(pair: Pair) -> None:
    pair.add_server()
    await pair.start()
    # A Panel that describes the server to the two nodes of a transfer alone, and closes it.
    pair.panel.strict = True
    hang = Hang()
    pair.panel.inject("/transfer/success", hang)
    browser = await watch(pair)
    await pair.transfer()
    await pair.panel.called("/transfer/success")
    pair.panel.close_transfer(UUID)
    hang.release()
    await browser.wait_for("transfer status", "failed")
    said = "\n".join(texts(browser, "transfer logs"))
    assert "the Panel does not want the server on this node" in said
    # To the destination the Panel has said so itself; the source tells it.
    await pair.destination.wait_for_line("cleaned up")
    await pair.source.wait_for_line("state failure")
    first, *others = pair.panel.reports()
    assert (first, set(others)) == ((UUID, "success"), {(UUID, "failure")})
    assert pair.panel.node_of(UUID) is pair.source.node
    assert pair.source.files().is_dir()


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_lost_after_success_undoes_nothing(pair: Pair) -> None:
    pair.add_server()
    await pair.start()
    # The Panel moves the server, but its word of that is lost on the way, and the destination
    # dies before it hears it again.
    pair.panel.inject("/transfer/success", Drop(carried_out=True))
    pair.panel.inject("/transfer/success", Hang())
    pair.source.node.reachable = False  # no word of the deletion either
    await pair.transfer()
    await pair.panel.called("/transfer/success", times=2)
    pair.destination.signal("KILL")
    await pair.source.wait_for_line("only its answer was lost")
    await pair.source.wait_for_line("state success")
    assert (UUID, "failure") not in pair.panel.reports()
    assert pair.source.files().is_dir()


@pytest_twisted.ensureDeferred
async def test_a_destination_that_dies_leaves_the_server_where_it_was(pair: Pair) -> None:
    pair.add_server(4_000_000)
    await pair.start()
    assert pair.destination.line is not None
    pair.destination.line.bytes_per_second = 400_000
    await pair.transfer()
    await pair.destination.wait_for_line("receiving the archive")
    pair.destination.signal("KILL")
    await pair.source.wait_for_line("the server stays here")
    await pair.source.wait_for_line("the Panel was told of the failure")
    assert pair.panel.reports() == [(UUID, "failure")]
    path = f"/api/servers/{UUID}"
    status, answer = await pair.panel.ask(pair.source.node, "GET", path)
    assert (status, answer["state"]) == (200, "offline")


async def refused_twice(pair: Pair) -> Any:
    status, answer = await pair.panel.ask(
        pair.source.node,
        "POST",
        f"/api/servers/{UUID}/transfer",
        pair.panel.transfer_order(UUID, pair.destination.node),
    )
    return status, answer["error"]


@pytest_twisted.ensureDeferred
async def test_a_second_start_is_refused_in_the_panels_words(pair: Pair) -> None:
    pair.add_server()
    await pair.start()
    hang = Hang()
    pair.panel.inject("/transfer/success", hang)
    await pair.transfer()
    await pair.panel.called("/transfer/success")
    answer = await refused_twice(pair)
    assert answer == (409, "A transfer is already in progress for this server.")
    hang.release()
    await pair.source.wait_for_line("state success")


@pytest_twisted.ensureDeferred
async def test_a_source_that_goes_down_meanwhile_leaves_nothing_behind(pair: Pair) -> None:
    pair.add_server()
    await pair.start()
    hang = Hang()
    pair.panel.inject("/transfer/success", hang)
    await pair.transfer()
    await pair.panel.called("/transfer/success")
    pair.source.signal("TERM")
    await pair.source.wait_for_line("Received SIGTERM")
    hang.release()
    await pair.source.ended()
    assert pair.panel.deletions == [(UUID, 204)]
    assert not pair.source.files().exists()
    assert not [line for line in pair.source.log if "Unhandled" in line]
