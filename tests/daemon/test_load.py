"""Many at once: servers that come in, and connections by which nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from tests.daemon.resources import MIB, memory
from tests.support.node_process import reactor
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import archive
from tests.support.upload_client import UploadClient

SERVERS = [f"8d2f5a14-6e2b-4c43-9d57-{number:012x}" for number in range(51)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """As many senders at once as a test has, each in a thread of its own."""
    pool = reactor.getThreadPool()
    usual = (pool.min, pool.max)
    pool.adjustPoolsize(0, len(SERVERS))
    yield
    pool.adjustPoolsize(*usual)


@pytest.mark.promise("all-of-many-servers-arrive")
async def test_fifty_servers_received_at_once_all_arrive(daemon: ReceivingNode) -> None:
    for server in SERVERS:
        daemon.expect(server)
    daemon.transfers = {"concurrent": 8, "waiting": 42}
    await daemon.start()
    *senders, late = [
        UploadClient(daemon, archive(300_000 + n), token=daemon.token(server))
        for n, server in enumerate(SERVERS)
    ]
    await gatherResults([Deferred.fromCoroutine(sender.begin()) for sender in senders])
    for server in SERVERS[:50]:
        await daemon.wait_for_line(f"{server}: state processing")
    staging = daemon.directory / ".volumes.staging"
    await until(lambda: len(list(staging.glob("8d2f*"))) == 8)

    await late.begin()
    status, body = await late.finish()
    assert status == 503
    assert b"this node is already receiving 50 servers" in body

    assert len(list(staging.glob("8d2f*"))) == 8
    answers = gatherResults([Deferred.fromCoroutine(sender.finish()) for sender in senders])
    assert await answers == [(200, b"")] * 50
    assert memory(daemon, "VmHWM") < 250 * MIB
    assert sorted(daemon.panel.reports()) == sorted((server, "success") for server in SERVERS[:50])
    regions = [daemon.volumes / server / "world/region/r.0.0.mca" for server in SERVERS[:50]]
    assert [region.stat().st_size for region in regions] == [300_000 + n for n in range(50)]
    assert daemon.stored() == SERVERS[:50]


@pytest.mark.promise("slow-sender-frees-its-slot")
async def test_an_upload_below_the_least_rate_frees_its_slot(daemon: ReceivingNode) -> None:
    for server in SERVERS[:2]:
        daemon.expect(server)
    daemon.transfers = {"concurrent": 1, "stall_timeout": 2, "least_rate": 100_000}
    await daemon.start()
    tokens = [daemon.token(server) for server in SERVERS[:2]]
    slow, quick = (UploadClient(daemon, archive(), token=token) for token in tokens)
    await slow.begin()
    await daemon.wait_for_line(f"{SERVERS[0]}: state processing")
    dripping = LoopingCall(lambda: Deferred.fromCoroutine(slow.drip()))
    dripping.start(0.2).addErrback(lambda _: None)  # at last the daemon hangs up
    await quick.begin()
    status, body = await slow.answer()
    dripping.stop()
    assert status == 400
    assert b"in 2 s, the minimum is 200000" in body
    assert await quick.finish() == (200, b"")
    assert sorted(daemon.panel.reports()) == [(SERVERS[0], "failure"), (SERVERS[1], "success")]
