"""Servers that are larger than their Panel or a disk allows, and a bomb, sent to real daemons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.archive.hostile.streams import bomb
from tests.support import server_settings
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from tests.support.small_disk import small_disk
from tests.support.two_nodes import TwoNodes

pytestmark = pytest.mark.promise("archive-respects-the-disk-limit")

MIB = 1 << 20


def allow(daemon: ReceivingNode, disk_space: int) -> None:
    daemon.expect(UUID, build=server_settings(UUID)["build"] | {"disk_space": disk_space})


async def test_a_server_beyond_its_disk_limit_is_refused_with_400(running: ReceivingNode) -> None:
    for data in (archive(3 * MIB), bomb(8)):
        allow(running, 2)
        since = len(running.log)
        status, answer = await running.upload(data)
        assert (status, answer["code"]) == (400, "disk-limit-exceeded")
        assert "its disk limit is 2 MiB" in answer["detail"]
        await running.failure_reported(since)
        assert running.stored() == []
    assert running.panel.reports() == [(UUID, "failure")] * 2
    # with more, it arrives
    allow(running, 4)
    assert await running.upload(archive(3 * MIB)) == (200, None)


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[TwoNodes]:
    """Two nodes of which the destination has a disk of 40 MiB."""
    with small_disk(tmp_path / "destination", 40):
        made = TwoNodes(tmp_path)
        yield made
        pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_a_server_that_does_not_fit_stays_where_it_is_and_one_with_holes_moves(
    cramped: TwoNodes,
) -> None:
    source, destination = cramped.source, cramped.destination
    cramped.add_server(60 * MIB)
    await cramped.start()
    await cramped.transfer()
    line = await source.wait_for_line("transfer failed")
    assert "the disk is full: the server takes 61 MiB more" in line
    assert "2 MiB must stay free (system.transfers.disk_reserve)" in line
    await cramped.panel.called("/transfer/failure")
    assert "processing" not in source.states()
    assert destination.stored() == []
    (source.files() / "world" / "region.mca").write_bytes(b"short")
    with (source.files() / "world" / "same.mca").open("r+b") as file:
        file.truncate(1 << 30)
    since = len(source.log)
    await cramped.transfer()
    await source.wait_for_line("done, the server has moved", since)
    assert (destination.files() / "world" / "same.mca").stat().st_size == 1 << 30
