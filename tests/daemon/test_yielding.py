"""What else the machine is for: a node keeps to its limits, and its threads yield."""

from __future__ import annotations

import os

import pytest

from tests.daemon.resources import MIB, nice_values
from tests.support.node_process import NodeProcess, reactor
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.two_nodes import TwoNodes
from tests.support.upload_client import begun

SIZE = 10 * MIB
#: Bytes that a limit counts for, MiB/s, and the seconds that this takes at least; a twentieth is
#: allowed for.
LIMITED, LIMIT = 4 * MIB, 4
LEAST = LIMITED / (LIMIT * MIB) * 0.95
#: The nice value of what is not told otherwise: that of the tests, which start the daemons.
USUAL = os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.promise("bandwidth-limits-hold")
async def test_servers_are_received_no_faster_than_the_limit(daemon: ReceivingNode) -> None:
    daemon.transfers = {"download_limit": LIMIT}
    await daemon.start()
    began = reactor.seconds()
    assert await daemon.upload(archive(LIMITED)) == (200, None)
    assert reactor.seconds() - began > LEAST
    assert (daemon.volumes / UUID / "world/region/r.0.0.mca").stat().st_size == LIMITED


@pytest.mark.promise("bandwidth-limits-hold")
async def test_servers_are_sent_no_faster_than_the_limit(nodes: TwoNodes) -> None:
    nodes.add_server(LIMITED)
    nodes.source.transfers = {"upload_limit": LIMIT}
    await nodes.start()
    began = reactor.seconds()
    await nodes.transfer()
    await nodes.destination.wait_for_line(f"{UUID}: received ")
    assert reactor.seconds() - began > LEAST
    await nodes.destination.wait_for_line("state success")
    assert (nodes.destination.files() / "world/region.mca").stat().st_size == LIMITED


async def yields(daemon: NodeProcess, nice: int, *names: str) -> None:
    """Return when the threads of these names are as nice as that, and see that no others are."""
    expected = {name: {max(nice, USUAL)} for name in names}
    await until(lambda: expected.items() <= nice_values(daemon).items())
    found = nice_values(daemon)
    others = {name: found[name] for name in found.keys() - expected.keys()}
    assert others == {name: {USUAL} for name in others}
    assert {"wingsd-disk", "wingsd-database"} < others.keys()


@pytest.mark.promise("transfers-stall-no-others")
@pytest.mark.parametrize(("transfers", "nice"), [({}, 10), ({"nice": 0}, 0)])
async def test_only_threads_that_receive_have_a_raised_nice_value(
    daemon: ReceivingNode, transfers: dict[str, int], nice: int
) -> None:
    daemon.transfers = transfers
    await daemon.start()
    sender = await begun(daemon, archive(3 * MIB))
    await yields(daemon, nice, "wingsd-extract", "wingsd-hash", "wingsd-inflate")
    assert await sender.finish() == (200, b"")


@pytest.mark.promise("transfers-stall-no-others")
async def test_only_threads_that_send_have_a_raised_nice_value(nodes: TwoNodes) -> None:
    nodes.add_server(SIZE)
    nodes.source.transfers = {"moves": {"enabled": False}}
    await nodes.start()
    nodes.destination.throttle(LIMIT * MIB)
    await nodes.transfer()
    await yields(nodes.source, 10, "wingsd-pack", "wingsd-read", "wingsd-deflate")
    await nodes.destination.wait_for_line("state success")
