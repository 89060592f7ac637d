"""Direct transfers between two real daemons that resume, without a Panel anywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from twisted.internet.defer import Deferred

from tests.daemon.test_direct_transfers import alone, invite, send, told
from tests.support.archives import seen
from tests.support.node_process import CommandResult, NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

MIB = 1 << 20
SIZE = 24 * MIB
#: What may be sent twice: the batches that were under way, and what TLS and HTTP add.
TWICE = 4 * MIB


async def begin(nodes: TwoNodes, *options: str) -> Deferred[CommandResult]:
    """Begin to send the server in small batches; return when half of it has been sent."""
    for node in (nodes.source, nodes.destination):
        node.transfers = {"moves": {"batch": 1}}
    await alone(nodes, SIZE)
    half: Deferred[None] = Deferred()
    nodes.destination.line.after(SIZE // 2, lambda: half.callback(None))
    sending = send(nodes, await invite(nodes), *options)
    await half
    return sending


async def cut(nodes: TwoNodes) -> None:
    nodes.destination.line.cut()


async def kill_source(nodes: TwoNodes) -> None:
    await start_anew(nodes.source)


async def kill_both(nodes: TwoNodes) -> None:
    await nodes.source.kill()
    await start_anew(nodes.destination)
    await nodes.source.start_without_panel()


async def start_anew(node: NodeProcess) -> None:
    await node.kill()
    await node.start_without_panel()


@pytest.mark.promise("direct-move-continues")
@pytest.mark.parametrize("fault", [cut, kill_source, kill_both])
async def test_a_direct_move_goes_on_where_it_was(
    nodes: TwoNodes, fault: Callable[[TwoNodes], Awaitable[None]]
) -> None:
    sending = await begin(nodes, "--delete")
    before = seen(nodes.source.files())
    await fault(nodes)
    # A command that misses its daemon for a moment does not notice that it is another one.
    assert (await sending).status in ({0} if fault is cut else {0, 3})
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert seen(nodes.destination.files()) == before
    assert (await told(nodes.destination))["server"]["by_hand"]
    assert nodes.destination.line.sent < SIZE + TWICE
    source = [*nodes.source.past, *nodes.source.log]
    assert fault is cut or any("resumed: " in line for line in source)
    assert not any("transfer failed" in line for line in source)
    for node in (nodes.source, nodes.destination):
        await until(node.has_ended_transfers)
    assert nodes.panel.reports() == []
