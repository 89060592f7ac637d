"""Servers that direct transfers have moved away, where a Panel still has them at their sources."""

from __future__ import annotations

import pytest

from tests.direct_transfers.seeding import END, begin, come, copy, nodes, quick
from tests.support.node_in_process import LEVEL, NodePair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.direct_transfers.initiator import MOVED_AWAY
from wingsd.statedb import KEPT

__all__ = ["nodes", "quick"]


@pytest.mark.promise("moved-server-is-not-started")
@pytest.mark.parametrize("is_restored", [False, True])
async def test_one_is_held_after_restarts_for_ever(nodes: NodePair, is_restored: bool) -> None:
    """Also where a restore has replaced its directory while the copy followed."""
    await begin(nodes, END)
    if is_restored:
        files = nodes.source.data / UUID
        files.rename(files.with_name("before"))
        (files / "world").mkdir(parents=True)
        (files / "world" / "level.dat").write_bytes(LEVEL)
        (files / "world" / "restored").write_bytes(b"restored")
        await until((copy(nodes) / "world" / "restored").exists)
    come(nodes.source)
    await nodes.assert_moved()
    nodes.source.store.prune(END + KEPT + 2)
    node = await nodes.restart("source")
    await node.recover()
    node.servers.get_or_add(nodes.configuration)
    assert node.hold == MOVED_AWAY
