"""Many at once: servers that come in, and connections by which nothing is asked for."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from tests.daemon.resources import MIB, at_rest, memory, open_files
from tests.support.node_process import reactor
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.upload_client import UploadClient, begun


@contextmanager
def silent_clients(daemon: ReceivingNode, number: int) -> Iterator[None]:
    """As many connections over which nothing is ever sent."""
    url = urlsplit(daemon.url)
    sockets = [
        socket.create_connection((url.hostname or "", url.port or 0)) for _ in range(number)
    ]
    try:
        yield
    finally:
        for each in sockets:
            each.close()


async def start_with_files(daemon: ReceivingNode, limits: str, **changes: object) -> None:
    """Start the daemon with other limits of open files, in the words of the shell's ulimit."""
    await daemon.start("/bin/sh", "-c", f'{limits}; exec "$@"', "sh", **changes)


@pytest.mark.promise("floods-delay-others-a-second")
async def test_1000_silent_connections_cost_little_and_block_none(daemon: ReceivingNode) -> None:
    await daemon.start()
    sender = await begun(daemon, archive(), until="state processing")
    before, files = memory(daemon, "VmRSS"), open_files(daemon)
    with silent_clients(daemon, 1000):
        assert await sender.finish() == (200, b"")
        assert (await daemon.upload(archive()))[0] == 409
        assert memory(daemon, "VmRSS") - before < 32 * MIB
        assert open_files(daemon) - files <= 256


@pytest.mark.promise("exhausted-descriptors-recover")
async def test_the_limit_of_open_files_is_raised_to_the_hard_limit(daemon: ReceivingNode) -> None:
    await start_with_files(daemon, "ulimit -Sn 1000; ulimit -Hn 3000")
    assert daemon.lines_with("at most 3000 files")
    assert daemon.lines_with("LimitNOFILE= in a systemd unit")
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    assert re.search(r"Max open files +3000 +3000", limits)


@pytest.mark.promise("exhausted-descriptors-recover")
async def test_uploads_are_refused_while_no_descriptor_is_free(daemon: ReceivingNode) -> None:
    await start_with_files(daemon, "ulimit -n 80", api={"limits": {"connections": 1000}})
    await daemon.loaded()
    sender = await begun(daemon, archive(), until="state processing")
    files = open_files(daemon)
    with silent_clients(daemon, 200):
        await daemon.wait_for_line("EMFILE")
        await until(lambda: open_files(daemon) >= 79)
        await at_rest(daemon)
        status, answer = await sender.finish()
        assert status == 500
        assert b"too many open files; raise the limit of this process" in answer
    await until(lambda: open_files(daemon) < files)
    await daemon.failure_reported()
    daemon.panel.open_transfer(UUID, daemon.node)
    assert await daemon.upload(archive()) == (200, None)
    assert daemon.panel.reports() == [(UUID, "failure"), (UUID, "success")]
    assert daemon.stored() == [UUID]


# Many at once: servers that come in, and connections by which nothing is asked for


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
