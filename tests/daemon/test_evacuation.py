"""`wingsctl evacuate` with two daemons and a Panel with Pelican's application API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.application_api import KEY
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.evacuated_nodes import FIRST_PORT, EvacuatedNodes
from tests.support.settings import process_configuration
from wingsd.cli.evacuation.plan import State, load


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[EvacuatedNodes]:
    """Two paired nodes, and eight servers on the first one."""
    made = EvacuatedNodes(tmp_path)
    made.fill()
    pytest_twisted.blockon(Deferred.fromCoroutine(made.open()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def test_a_node_empties_itself_and_comes_back(nodes: EvacuatedNodes, tmp_path: Path) -> None:
    source, destination, panel = nodes.source, nodes.destination, nodes.panel
    before = {uuid: seen(source.volumes / uuid) for uuid in nodes.servers}
    plan = tmp_path / "plan.json"
    # The port of the first one is taken there by another server.
    panel.allocations[len(nodes.servers) + 1 + 2].server = "another"
    dry = await source.wingsctl(*nodes.words(source, plan, "--dry-run", "--json"))
    assert dry.status == 0, dry.err
    assert not plan.exists()
    assert {each["state"] for each in dry.json["servers"]} == {"waiting"}
    assert not panel.reports()

    _, ended = nodes.evacuate(source, plan, "--json")
    moved = await ended
    assert moved.status == 0, moved.err
    assert moved.json["moved"] == len(nodes.servers)
    assert {panel.node_of(uuid) for uuid in nodes.servers} == {destination.node}
    assert {uuid: seen(destination.volumes / uuid) for uuid in nodes.servers} == before
    told = {each["server"]: each["new_addresses"] for each in moved.json["servers"]}
    for uuid in nodes.servers:
        default = panel.settings_of(uuid)["allocations"]["default"]
        assert told[uuid] == [f"{default['ip']}:{default['port']}"]
    # The key is in no log and no file but its own.
    assert KEY not in plan.read_text()
    assert KEY not in "\n".join((*source.log, *destination.log, moved.out, moved.err))

    sent = source.line.sent
    words = ["evacuate", "--back", str(plan), "--panel-key-file", str(nodes.key)]
    back = await destination.wingsctl(*words, "--family", "pelican", "--json")
    assert back.status == 0, back.err
    assert back.json["plan"] == f"{plan}.back"
    assert {panel.node_of(uuid) for uuid in nodes.servers} == {source.node}
    assert {uuid: seen(source.volumes / uuid) for uuid in nodes.servers} == before
    # Of 7 MB nearly nothing: the old node has kept the files.
    assert source.line.sent - sent < 1_000_000


async def test_servers_come_back_to_the_files_that_the_old_node_keeps(
    tmp_path: Path, engine: Engine
) -> None:
    nodes = EvacuatedNodes(tmp_path, 2, FIRST_PORT + 100)
    changes = {"docker": attrs.asdict(engine.config().docker)}
    nodes.fill(
        kib=2000,
        image=engine.image,
        invocation="cd /home/container; echo listening on; read -r line; date > saved",
        process=process_configuration(stop={"type": "command", "value": "stop"}),
    )
    await nodes.open(**changes)
    try:
        for uuid in nodes.servers:
            engine.will_make_container(uuid)
            await nodes.panel.power(uuid, "start")
            await nodes.source.wait_for_line(f"{uuid}: running")
        plan = tmp_path / "plan.json"
        moved = await nodes.evacuate(nodes.source, plan)[1]
        assert moved.status == 0, moved.err
        for uuid in nodes.servers:
            await nodes.destination.wait_for_line(f"{uuid}: running")
        changed = nodes.destination.volumes / nodes.servers[0] / "world" / "region.0.mca"
        changed.write_bytes(b"changed" * 1000)
        sent = nodes.source.line.sent
        words = ["evacuate", "--back", str(plan), "--panel-key-file", str(nodes.key)]
        back = await nodes.destination.wingsctl(*words, "--family", "pelican")
        assert back.status == 0, back.err
        assert {nodes.panel.node_of(uuid) for uuid in nodes.servers} == {nodes.source.node}
        # Of 6 MB nearly nothing: names, digests, TLS and requests.
        assert nodes.source.line.sent - sent < 500_000
        there = nodes.source.volumes / nodes.servers[0]
        assert (there / "world" / "region.0.mca").read_bytes() == b"changed" * 1000
        assert (there / "saved").exists()
    finally:
        await nodes.close()


async def test_status_pause_and_cancel_of_a_command_that_runs(
    nodes: EvacuatedNodes, tmp_path: Path
) -> None:
    plan, source = tmp_path / "plan.json", nodes.source
    hold = nodes.panel.hold("/transfer/success")
    _, ended = nodes.evacuate(source, plan)
    await nodes.panel.called("/transfer/success")

    async def tell(*words: str) -> dict[str, object]:
        told = await source.wingsctl("evacuate", *words, "--plan", str(plan), "--json")
        assert told.status == 0, told.err
        found: dict[str, object] = json.loads(told.out)
        return found

    assert (await tell("pause"))["wish"] == "pause"
    assert (await tell("status"))["state"] == "paused"
    shown = await source.wingsctl("status", "--json")
    assert shown.json["evacuation"]["total"] == len(nodes.servers)
    assert (await tell("resume"))["wish"] == "go on"
    assert (await tell("cancel"))["wish"] == "cancel"
    hold.release()
    cancelled = await ended
    assert cancelled.status == 1
    states = {each.state for each in load(str(plan)).servers}
    assert states <= {State.MOVED, State.CANCELLED}
    for uuid in nodes.servers:
        at = nodes.panel.node_of(uuid)
        node = source if at is source.node else nodes.destination
        assert (node.volumes / uuid).is_dir()
