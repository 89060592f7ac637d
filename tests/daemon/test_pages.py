"""Pages of a Panel that are open while a server moves: each ends without the banner."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support import Hang
from tests.support.browser import Page
from tests.support.node_process import reactor
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes
from wingsd.websocket.recent_transfers import ISSUED_WITHIN

USERS = [f"2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e2{number}" for number in range(3)]

Open = Callable[[TwoNodes], Awaitable[list[Page]]]


@pytest.fixture
def open_pages() -> Iterator[Open]:
    """Open a page for each user; return when all are connected."""
    pages: list[Page] = []

    async def opened(nodes: TwoNodes) -> list[Page]:
        new = [Page(reactor, nodes.panel, UUID, user) for user in USERS]
        pages.extend(new)
        await until(lambda: all(page.is_connected for page in new))
        return new

    yield opened
    for page in pages:
        pytest_twisted.blockon(Deferred.fromCoroutine(page.close()))


def hold(pages: list[Page]) -> Hang:
    """Let no page open another WebSocket before the result is released."""
    held = Hang()
    for page in pages:
        page.before_opening = held.wait
    return held


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pages_lose_the_banner_of_a_failure(nodes: TwoNodes, open_pages: Open) -> None:
    # A move that resumes would be refused before the server is stopped.
    nodes.source.transfers = {"moves": {"enabled": False}}
    await nodes.start()
    pages = await open_pages(nodes)
    held = hold(pages)
    await nodes.transfer(token="Bearer refused")
    await nodes.source.wait_for_line(f"{UUID}: state failure")
    await until(lambda: all(is_reconnecting(page) for page in pages))
    held.release()
    await until(lambda: not any(page.is_transferring for page in pages))
    # Its reason is read where the console was cleared since.
    await until(lambda: all(shows(page, "failed while") for page in pages))
    # Each connects again for each of these states, and no more.
    await until(lambda: all(page.is_connected for page in pages))
    assert [page.states for page in pages] == [["processing", "failed"]] * len(pages)
    assert [page.opened for page in pages] == [3] * len(pages)


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pages_lose_the_banner_of_a_failure_of_which_the_panel_hears_late(
    nodes: TwoNodes, open_pages: Open
) -> None:
    nodes.source.transfers = {"moves": {"enabled": False}}
    await nodes.start()
    report = nodes.panel.hold("/transfer/failure")
    await nodes.transfer(token="Bearer refused")
    await nodes.panel.called("/transfer/failure")
    ended = time.time()
    # Tokens have whole seconds: with one that is issued now a page may be sent the failure.
    await until(lambda: int(time.time()) > ended + ISSUED_WITHIN)
    pages = await open_pages(nodes)
    assert all(page.is_transferring for page in pages)
    report.release()
    await until(lambda: not any(page.is_transferring for page in pages))


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pages_show_why_a_transfer_failed_that_was_ordered_again(
    nodes: TwoNodes, open_pages: Open
) -> None:
    nodes.source.transfers = {"moves": {"enabled": False}}
    await nodes.start()
    pages = await open_pages(nodes)
    await nodes.transfer(token="Bearer refused")
    await until(lambda: all(page.states[-1:] == ["failed"] for page in pages))
    # On that each connects again: the next transfer begins while it is there.
    await until(lambda: all(page.is_connected for page in pages))
    held = hold(pages)
    success = nodes.panel.hold("/transfer/success")
    await nodes.transfer()
    await nodes.source.wait_for_line("waiting for the destination to finish")
    await until(lambda: all(is_reconnecting(page) for page in pages))
    held.release()
    await until(lambda: all(shows(page, "waiting for the destination") for page in pages))
    assert all(shows(page, "failed while") for page in pages)
    success.release()
    await until(lambda: not any(page.is_transferring for page in pages))


@pytest.mark.promise("pages-follow-a-transfer")
async def test_reconnecting_pages_follow_a_moved_server(nodes: TwoNodes, open_pages: Open) -> None:
    await nodes.start()
    pages = await open_pages(nodes)
    held = hold(pages)
    await nodes.transfer()
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    await until(lambda: all(is_reconnecting(page) for page in pages))
    status, _ = await nodes.panel.ask(nodes.source.node, "GET", f"/api/servers/{UUID}")
    assert status == 404
    held.release()
    await until(lambda: not any(page.is_transferring for page in pages))
    await until(lambda: all(page.is_connected for page in pages))
    assert [page.states[:2] for page in pages] == [["processing", "completed"]] * len(pages)


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pages_lose_no_line_while_they_reconnect(nodes: TwoNodes, open_pages: Open) -> None:
    await nodes.start()
    success = nodes.panel.hold("/transfer/success")
    pages = await open_pages(nodes)
    held = hold(pages)
    await nodes.transfer()
    await nodes.source.wait_for_line("waiting for the destination to finish")
    await until(lambda: all(is_reconnecting(page) for page in pages))
    held.release()
    late = await open_pages(nodes)
    await until(lambda: all(shows(page, "waiting for the destination") for page in late))
    for page in late:
        for step in ("asking the destination", "stopping", "removing its", "sending the archive"):
            assert shows(page, step)
    success.release()
    await until(lambda: not any(page.is_transferring for page in late))


def is_reconnecting(page: Page) -> bool:
    return page.is_transferring and not page.is_connected


def shows(page: Page, text: str) -> bool:
    return any(text in line for line in page.console)
