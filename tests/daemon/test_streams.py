"""Servers that come and go in several requests at the same time, by real daemons over TLS."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.archives import seen, stamp
from tests.support.node_process import FAST, SLOW, NodeProcess, reactor
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes
from tests.support.upload_client import Unanswered, UploadClient, begun
from tests.support.upload_forms import Calagopus, calagopus

LOG = b"installed\n" * 500
BACKUP = {"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11": b"b" * 70_000}
OURS = "user-agent: wingsd/1"

#: Two nodes of wingsd would move the server in batches.
AS_STREAMS = {"moves": {"enabled": False}}


def archive(number: int, size: int = 200_000) -> bytes:
    """Return a part of a server; each has a directory of its own, and a file in a common one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (f"world/{number}.mca", f"part{number}/data"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = size, 1_700_000_000, 0o640
            tar.addfile(member, io.BytesIO(hashlib.shake_128(name.encode()).digest(size)))
    return buffer.getvalue()


def form(number: int | None, others: int, agent: str = "") -> Calagopus:
    """Return the form of one of the requests, with None for the first."""
    stream = f"multiplex-stream-count: {others}" if number is None else ""
    stream = stream or f"multiplex-stream: {number}"
    lines = f"{stream}\r\n{agent}" if agent else stream
    return calagopus(*((LOG, BACKUP) if number is None else ()), suffix="tar", stream=lines)


def requests(
    daemon: ReceivingNode,
    others: int,
    agent: str = "",
    wrong: int | None = None,
    size: int = 200_000,
) -> list[UploadClient]:
    """Return the requests of one server, the first of them first; one has a wrong checksum."""
    token = daemon.token()
    return [
        UploadClient(
            daemon,
            archive(-1 if number is None else number, size),
            checksum="0" * 64 if wrong is not None and wrong == number else None,
            token=token,
            family=form(number, others, agent),
        )
        for number in (None, *range(others))
    ]


async def kill(daemon: NodeProcess) -> None:
    await daemon.kill()


async def pause() -> None:
    await deferLater(reactor, 0.02)


async def outcome(sender: UploadClient) -> tuple[int, bytes] | None:
    """Send the rest; return the answer, None without one."""
    try:
        return await sender.finish()
    except Unanswered:
        return None


async def finish(senders: list[UploadClient]) -> list[tuple[int, bytes] | None]:
    waiting = [Deferred.fromCoroutine(outcome(sender)) for sender in senders]
    return [await each for each in waiting]


@pytest.mark.promise("unexpected-stream-is-refused-alone")
@pytest.mark.parametrize("backwards", [False, True])
async def test_the_streams_of_a_server_are_merged(running: ReceivingNode, backwards: bool) -> None:
    senders = requests(running, 3)
    for sender in senders[::-1] if backwards else senders:
        await sender.begin()
    assert await finish(senders) == [(200, b"")] * 4
    assert running.panel.reports() == [(UUID, "success")]
    (call,) = [call for call in running.panel.calls if call.path.endswith("/success")]
    assert call.body == {"backups": [*BACKUP]}
    world = running.volumes / UUID / "world"
    assert sorted(path.name for path in world.iterdir()) == ["-1.mca", "0.mca", "1.mca", "2.mca"]
    assert (running.directory / "logs" / "install" / f"{UUID}.log").read_bytes() == LOG
    late = await begun(running, archive(0), token=senders[0].token, family=form(0, 3, OURS))
    status, body = await late.finish()
    assert status == 401
    assert b"it was used for a transfer before" in body
    assert running.panel.reports() == [(UUID, "success")]


@pytest.mark.promise("streams-succeed-together")
async def test_a_stream_cut_short_fails_all_streams(running: ReceivingNode) -> None:
    first, other, cut = requests(running, 2, OURS)
    for sender in (first, other, cut):
        await sender.begin()
    await cut.vanish()
    answers = await finish([first, other])
    assert [answer and answer[0] for answer in answers] == [400] * 2
    assert all(answer and b"stream 1: " in answer[1] for answer in answers)
    await running.failure_reported()
    assert running.panel.reports() == [(UUID, "failure")]
    assert running.stored() == []


@pytest.mark.promise("streams-succeed-together")
async def test_streams_of_a_killed_daemon_fail_as_one_transfer(running: ReceivingNode) -> None:
    senders = requests(running, 3, size=2_000_000)
    for sender in senders:
        await sender.begin()
    world = running.directory / ".volumes.staging" / UUID / "world"
    while not (world.is_dir() and len(os.listdir(world)) == 4):
        await pause()
    await kill(running)
    assert await finish(senders) == [None] * 4
    assert running.panel.reports() == []
    await running.start()
    await running.failure_reported()
    assert running.panel.reports() == [(UUID, "failure")]
    assert running.stored() == []
    assert not running.lines_with("the transfer of before")
    # The token was this one transfer's.
    running.panel.open_transfer(UUID, running.node)
    late = await begun(running, archive(0), token=senders[0].token, family=form(0, 3, OURS))
    assert (await late.finish())[0] == 401
    again = requests(running, 3)
    for sender in again:
        await sender.begin()
    assert await finish(again) == [(200, b"")] * 4


def grow(home: Path) -> None:
    """Make the server one that is worth to be divided."""
    rng = random.Random(5)
    for number in range(60):
        path = home / f"region{number % 8}" / f"r.{number}.mca"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(60_000)))
    os.link(home / "region0" / "r.0.mca", home / "region7" / "again.mca")
    (home / "region3" / "latest").symlink_to("../region1/r.1.mca")
    stamp(home)


async def test_a_server_moves_in_several_streams(nodes: TwoNodes) -> None:
    nodes.add_server()
    grow(nodes.source.files())
    before = seen(nodes.source.files())
    nodes.source.transfers = nodes.destination.transfers = AS_STREAMS
    await nodes.start()
    here, there = nodes.source, nodes.destination
    files = 60 + 2 + 1
    for number, streams in enumerate((1, 4, 7), 1):
        marks = len(here.log), len(there.log)
        form = "tar_gz" if streams == 4 else "tar_zstd"
        await nodes.panel.transfer(
            UUID, there.node, multiplex_streams=streams, archive_format=form
        )
        await there.wait_for_line("state success", marks[1])
        await here.wait_for_line(f"{UUID}: files deleted", marks[0])
        assert seen(there.files()) == before
        assert nodes.panel.reports() == [(UUID, "success")] * number
        assert nodes.panel.deletions == [(UUID, 204)] * number
        sent = await here.wait_for_line(" sent ", marks[0])
        received = await there.wait_for_line(" received ", marks[1])
        assert f" bytes, {files} files, " in sent
        assert f" bytes, {files} files, " in received
        here, there = there, here


@pytest.mark.promise("streams-share-slots")
async def test_a_server_moves_in_more_streams_than_receiving_slots(nodes: TwoNodes) -> None:
    nodes.add_server()
    grow(nodes.source.files())
    before = seen(nodes.source.files())
    nodes.destination.transfers = {"concurrent": 1, **AS_STREAMS}
    await nodes.start()
    await nodes.transfer(multiplex_streams=5)
    await nodes.destination.wait_for_line("state success")
    assert seen(nodes.destination.files()) == before


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize("victim", ["source", "destination"])
async def test_a_kill_during_several_streams_leaves_the_server_which_moves_later(
    nodes: TwoNodes, victim: str
) -> None:
    nodes.add_server(4_000_000)
    grow(nodes.source.files())
    before = seen(nodes.source.files())
    nodes.source.transfers = nodes.destination.transfers = AS_STREAMS
    await nodes.start()
    # It describes a server to a transfer's nodes alone, by which these know what is over.
    nodes.panel.strict = True
    nodes.destination.throttle(SLOW)
    await nodes.transfer(multiplex_streams=3)
    await nodes.destination.wait_for_line("receiving the archive")
    await kill(getattr(nodes, victim))
    getattr(nodes, victim).age_transfers()
    nodes.destination.throttle(FAST)
    await getattr(nodes, victim).start_loaded()
    stays = "it is still here" if victim == "source" else "state failure"
    await nodes.source.wait_for_line(stays)
    # Nothing of it may be told any more when the next one is open.
    await nodes.destination.wait_for_line("the failure was reported to the Panel")
    while nodes.panel.in_transfer(UUID) or nodes.destination.paths_of_server():
        await pause()
    assert nodes.panel.node_of(UUID) is nodes.source.node
    assert seen(nodes.source.files()) == before
    assert nodes.destination.paths_of_server() == []
    await nodes.transfer(multiplex_streams=3)
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert seen(nodes.destination.files()) == before
