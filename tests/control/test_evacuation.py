"""Pairs, wanted copies, orders and maintenance, over the control socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.operators import Operator, operating
from tests.direct_transfers.seeding import OrderingPanel, order, quick, settings
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.cli.client import Exit
from wingsd.direct_transfers import wanted_seeds
from wingsd.servers.operations import Operation

__all__ = ["quick"]


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(wanted_seeds, "LOOK_EVERY", 0.02)
    yield from operating(tmp_path, settings())


async def paired(operator: Operator, **limits: Any) -> str:
    nodes = operator.nodes
    nodes.source.panel.known[UUID] = nodes.configuration
    nodes.source.servers.loaded = True
    made = await operator.ask("POST", "pairs", {"name": "a", **limits}, end="destination")
    order = {"url": nodes.destination.url, "key": made["key"]}
    return str((await operator.ask("POST", "pairs/accept", order))["name"])


async def snapshot(operator: Operator, since: float | None = None) -> Any:
    query = "" if since is None else f"?since={since}"
    return await operator.ask("GET", f"evacuation{query}")


async def test_both_nodes_list_a_pair_and_either_ends_it(operator: Operator) -> None:
    name = await paired(operator, bytes=1 << 30, servers=3)
    source = operator.nodes.source.url.removeprefix("http://")
    (sent,) = (await operator.ask("GET", "pairs"))["pairs"]
    (taken,) = (await operator.ask("GET", "pairs", end="destination"))["pairs"]
    assert (sent["direction"], sent["name"], sent["peer"]) == ("out", name, "a")
    assert (taken["direction"], taken["name"], taken["peer"]) == ("in", "a", source)
    assert (taken["bytes"], taken["servers"], taken["used_servers"]) == (1 << 30, 3, 0)
    status = await operator.ask("GET", "status", end="destination")
    assert status["pairs"] == {"in": 1, "out": 0}
    facts = await operator.ask("POST", f"pairs/{name}/facts", {"mounts": ["/etc"]})
    assert (facts["name"], facts["mounts_refused"]) == ("a", ["/etc"])
    assert facts["free_bytes"] > 0
    refused = await operator.refusal("POST", "pairs", {"name": "a"}, end="destination")
    assert refused.code == "pair-exists"
    await operator.ask("DELETE", "pairs/a?direction=in", end="destination")
    refused = await operator.refusal("POST", f"pairs/{name}/facts", {})
    assert refused.exit_code == Exit.FAILED
    await operator.ask("DELETE", f"pairs/{name}")
    assert await operator.ask("GET", "pairs") == {"pairs": []}
    assert (await operator.refusal("DELETE", f"pairs/{name}")).exit_code == Exit.UNKNOWN


async def test_a_revoke_that_is_refused_ends_no_copy(operator: Operator) -> None:
    name = await paired(operator)
    await operator.ask("POST", "pairs", {"name": name})
    await operator.ask("POST", "seeds", {"pair": name, "servers": [UUID]})
    refused = await operator.refusal("DELETE", f"pairs/{name}")
    assert refused.code == "pair-not-found"
    wanted = operator.nodes.source.wanted_seeds.wanted
    assert list(wanted) == [UUID]
    await operator.ask("DELETE", f"pairs/{name}?direction=out")
    assert wanted == {}


async def test_a_pair_with_odd_limits_is_not_made(operator: Operator) -> None:
    for content in ({"days": 0}, {"days": 400}, {"servers": 0}, {"bytes": -1}, {"name": "a b"}):
        assert (await operator.refusal("POST", "pairs", content)).code == "bad-request"


async def test_a_snapshot_has_what_a_plan_needs(operator: Operator) -> None:
    name = await paired(operator)
    (found,) = (await snapshot(operator))["servers"]
    assert (found["server"], found["name"], found["state"]) == (UUID, "Lobby", "offline")
    assert (found["seed"], found["order"], found["busy"]) == (None, None, [])
    assert await operator.ask("POST", "seeds", {"pair": name, "servers": [UUID]}) == {
        "wanted": [UUID]
    }

    async def follows() -> bool:
        (each,) = (await snapshot(operator))["servers"]
        assert each["seed"]["pair"] == name
        # In a second round, files that were new in the first one are read again.
        return (each["seed"]["state"], each["seed"]["missing_bytes"]) == ("following", 0)

    while not await follows():
        pass
    await operator.ask("DELETE", f"seeds/{UUID}")
    (found,) = (await snapshot(operator))["servers"]
    assert found["seed"] is None
    assert (await operator.refusal("DELETE", f"seeds/{UUID}")).exit_code == Exit.UNKNOWN


async def test_an_order_that_waits_says_for_what_and_one_that_has_ended_is_listed(
    operator: Operator,
) -> None:
    nodes, began = operator.nodes, time.time() - 1
    nodes.source.servers.loaded = True
    panel = OrderingPanel(nodes)
    operations = nodes.source.servers.get(UUID).operations
    with operations.during(Operation.BACKUP):
        order(nodes, nodes.destination)
        (found,) = (await snapshot(operator))["servers"]
        assert found["order"]["phase"] == "waiting"
        assert "a backup of the server is being made" in found["order"]["waits_for"]
        assert time.time() + 600 < found["order"]["waits_until"] < time.time() + 900
        status = await operator.ask("GET", "status")
        assert status["transfers"]["waiting_orders"] == 1
    await panel.see_moved()
    await until(lambda: nodes.source.sender._left_behind)
    await nodes.source.sender.release(UUID)
    nodes.source.sender.deleted(UUID)
    await until(lambda: nodes.source.entries() == [("out", "success")])
    (ended,) = (await snapshot(operator, began))["ended"]
    assert (ended["outcome"], ended["downtime"]) == ("success", None)
    assert (await snapshot(operator, time.time() + 60))["ended"] == []


async def test_what_the_command_reports_is_shown(operator: Operator) -> None:
    report = {"to": "b", "plan": "/root/plan", "state": "moving", "total": 40, "moved": 3}
    await operator.ask("PUT", "evacuation", report)
    shown = (await operator.ask("GET", "status"))["evacuation"]
    assert report.items() <= shown.items()
    assert time.time() - shown["reported"] < 60
    await operator.ask("DELETE", "evacuation")
    assert (await operator.ask("GET", "status"))["evacuation"] is None
    odd = await operator.refusal("PUT", "evacuation", report | {"state": "odd"})
    assert odd.code == "bad-request"


async def test_maintenance_begins_and_ends(operator: Operator) -> None:
    assert await operator.ask("GET", "maintenance") == {"since": None, "why": ""}
    await operator.ask("PUT", "maintenance", {"why": "disks"})
    found = await operator.ask("GET", "maintenance")
    assert (found["why"], time.time() - found["since"] < 60) == ("disks", True)
    assert (await operator.ask("GET", "status"))["maintenance"] == found
    refused = await operator.refusal("POST", "receive", {"server": UUID})
    assert refused.code == "node-in-maintenance"
    await operator.ask("DELETE", "maintenance")
    assert await operator.ask("GET", "maintenance") == {"since": None, "why": ""}
