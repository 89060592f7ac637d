"""Moves between two real daemons that are cut, killed and started anew in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.archives import seen
from tests.support.http_proxy import CUT, HttpProxy
from tests.support.node_process import NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

MIB = 1 << 20
SIZE = 24 * MIB
#: What may be sent twice: the batches that were under way, and what TLS and HTTP add.
TWICE = 4 * MIB
OK, TOO_LARGE, TIMED_OUT = 200, 413, 504
#: Bytes of a body that a proxy takes.
LIMIT = MIB // 2
#: Seconds that all takes on a slow line, and for which nothing passes.
DELAY, DEAD = 0.02, 3.0


async def cut(nodes: TwoNodes) -> None:
    nodes.destination.line.cut()


async def kill_source(nodes: TwoNodes) -> None:
    await start_anew(nodes.source)


async def kill_both(nodes: TwoNodes) -> None:
    await nodes.source.kill()
    await start_anew(nodes.destination)
    await nodes.source.start_loaded()


async def stop_source(nodes: TwoNodes) -> None:
    nodes.source.signal("TERM")
    await nodes.source.ended()
    await nodes.source.start_loaded()


async def start_anew(node: NodeProcess) -> None:
    await node.kill()
    await node.start_loaded()


@pytest.mark.promise("move-continues-after-breaks")
@pytest.mark.parametrize("fault", [cut, kill_both, stop_source])
async def test_a_move_goes_on_where_it_was(
    nodes: TwoNodes, fault: Callable[[TwoNodes], Awaitable[None]]
) -> None:
    for node in (nodes.source, nodes.destination):
        node.transfers = {"moves": {"batch": 1}}
    nodes.add_server(size=SIZE)
    before = seen(nodes.source.files())
    await nodes.start()
    line = nodes.destination.line
    half: Deferred[None] = Deferred()
    begun = line.sent
    line.after(SIZE // 2, lambda: half.callback(None))
    await nodes.transfer()
    await half
    await fault(nodes)
    await until(lambda: nodes.panel.reports() != [])
    assert nodes.panel.reports() == [(UUID, "success")]
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert seen(nodes.destination.files()) == before
    assert nodes.panel.node_of(UUID) is nodes.destination.node
    assert line.sent - begun < SIZE + TWICE
    source = [*nodes.source.past, *nodes.source.log]
    assert fault is cut or any("resumed: " in each for each in source)
    assert not any("transfer failed" in each for each in source)
    await until(
        lambda: all(node.has_ended_transfers() for node in (nodes.source, nodes.destination))
    )


@pytest.mark.promise("commit-outcome-is-asked-for")
async def test_a_source_that_died_after_the_commit_waits_for_its_outcome(nodes: TwoNodes) -> None:
    await nodes.start()
    before = seen(nodes.source.files())
    report = nodes.panel.hold("/transfer/success")
    await nodes.transfer()
    await nodes.panel.called("/transfer/success")
    await kill_source(nodes)
    await nodes.source.wait_for_line("waiting for the destination to finish")
    report.release()
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert nodes.panel.reports() == [(UUID, "success")]
    assert seen(nodes.destination.files()) == before
    assert not any("asking the Panel" in line for line in nodes.source.log)


@pytest.mark.promise("commit-outcome-is-asked-for")
async def test_nodes_that_died_at_the_commit_commit_again(nodes: TwoNodes) -> None:
    nodes.add_server(size=6 * MIB)
    before = seen(nodes.source.files())
    await nodes.start()
    await nodes.transfer()
    await nodes.source.wait_for_line("waiting for the destination to finish")
    nodes.source.signal("KILL")
    await nodes.source.ended()
    await start_anew(nodes.destination)
    await nodes.source.start_loaded()
    await nodes.panel.called("/transfer/success")
    # Deleted by the Panel's order, or kept aside where that came while the source was dead.
    await until(lambda: not nodes.source.files().exists())
    assert {outcome for _, outcome in nodes.panel.reports()} == {"success"}
    assert seen(nodes.destination.files()) == before


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize("cuts_bodies", [False, True], ids=["413", "cut"])
async def test_a_move_passes_a_strict_proxy(nodes: TwoNodes, cuts_bodies: bool) -> None:
    nodes.add_server(size=6 * MIB)
    (nodes.source.files() / "text").write_bytes(b"the same line\n" * 200_000)
    before = seen(nodes.source.files())
    await nodes.start()
    async with in_front_of(nodes.destination, cuts_bodies=cuts_bodies) as proxy:
        await nodes.transfer()
        await until(lambda: nodes.panel.reports() != [])
        assert nodes.panel.reports() == [(UUID, "success")]
        assert seen(nodes.destination.files()) == before
        assert any(status == (CUT if cuts_bodies else TOO_LARGE) for *_, status in proxy.seen)
        assert max(length for _, _, length, status in proxy.seen if status == OK) <= LIMIT
        assert ("POST", "/api/transfers") not in [request[:2] for request in proxy.seen]


def _has_cut(proxy: HttpProxy, times: int) -> bool:
    return proxy.count("GET", TIMED_OUT) >= times


@pytest.mark.promise("move-passes-strict-proxies")
async def test_a_move_passes_a_proxy_that_wants_each_answer_soon(nodes: TwoNodes) -> None:
    await nodes.start()
    before = seen(nodes.source.files())
    async with in_front_of(nodes.destination) as proxy:
        report = nodes.panel.hold("/transfer/success")
        await nodes.transfer()
        await nodes.panel.called("/transfer/success")
        # The source asks how far it is, and waits no longer than the proxy does in the end.
        proxy.answer_within = 1.5
        for cut in range(1, 3):
            await until(partial(_has_cut, proxy, cut))
        await until(lambda: proxy.count("GET", OK, since=TIMED_OUT) > 0)
        report.release()
        await nodes.source.wait_for_line(f"{UUID}: files deleted")
        assert nodes.panel.reports() == [(UUID, "success")]
        assert seen(nodes.destination.files()) == before


@pytest.mark.promise("move-continues-after-breaks")
async def test_a_move_goes_on_when_a_slow_line_was_dead(nodes: TwoNodes) -> None:
    for node in (nodes.source, nodes.destination):
        node.transfers = {"moves": {"batch": 1}}
    nodes.add_server(size=SIZE // 2)
    before = seen(nodes.source.files())
    await nodes.start()
    line, dead = nodes.destination.line, Deferred[None]()
    line.delay, begun = DELAY, line.sent

    def die() -> None:
        line.stall(DEAD)
        dead.callback(None)

    line.after(SIZE // 4, die)
    await nodes.transfer()
    await dead
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert nodes.panel.reports() == [(UUID, "success")]
    assert seen(nodes.destination.files()) == before
    assert line.sent - begun < SIZE // 2 + TWICE


@asynccontextmanager
async def in_front_of(node: NodeProcess, **settings: Any) -> AsyncIterator[HttpProxy]:
    """Have a node be reached by a proxy."""
    proxy = HttpProxy(node.url, node.authority, body_limit=LIMIT, **settings)
    node.node.address = proxy.url
    try:
        yield proxy
    finally:
        await proxy.close()
