"""Moves between two real daemons that are cut, killed and started anew in the middle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from twisted.internet.defer import Deferred

from tests.support.archives import seen
from tests.support.http_proxy import HttpProxy
from tests.support.node_process import NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

MIB = 1 << 20
SIZE = 24 * MIB
#: What may be sent twice: the batches that were under way, and what TLS and HTTP add.
TWICE = 4 * MIB
OK, TOO_LARGE = 200, 413
#: Bytes of a body that a proxy takes.
LIMIT = MIB // 2


async def cut(nodes: TwoNodes) -> None:
    nodes.destination.line.cut()


async def kill_destination(nodes: TwoNodes) -> None:
    await start_anew(nodes.destination)


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


@pytest.mark.parametrize("fault", [cut, kill_destination, kill_source, kill_both, stop_source])
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


async def test_a_move_passes_a_strict_proxy(nodes: TwoNodes) -> None:
    nodes.add_server(size=6 * MIB)
    (nodes.source.files() / "text").write_bytes(b"the same line\n" * 200_000)
    before = seen(nodes.source.files())
    await nodes.start()
    destination = nodes.destination
    proxy = HttpProxy(destination.url, destination.authority, body_limit=LIMIT)
    destination.node.address = proxy.url
    try:
        await nodes.transfer()
        await until(lambda: nodes.panel.reports() != [])
        assert nodes.panel.reports() == [(UUID, "success")]
        assert seen(destination.files()) == before
        assert any(status == TOO_LARGE for *_, status in proxy.seen)
        assert max(length for _, _, length, status in proxy.seen if status == OK) <= LIMIT
        assert ("POST", "/api/transfers") not in [request[:2] for request in proxy.seen]
    finally:
        await proxy.close()
