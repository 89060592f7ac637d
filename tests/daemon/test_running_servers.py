"""Running servers that move between two real daemons with one Docker engine.

Tests take the engine first, so that it is cleaned when no daemon is left: one that lives takes the
end of its container for a crash, and starts the server again.
"""

from __future__ import annotations

import pytest

from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.settings import process_configuration
from tests.support.two_nodes import TwoNodes

#: A game that is up at once, and writes what it is stopped with.
GAME = "echo listening on; read -r line; echo $line > /home/container/state"


async def begun(nodes: TwoNodes, engine: Engine, image: str = "") -> None:
    """Start both nodes, and the server at the source; then have it moved."""
    stop = process_configuration(stop={"type": "command", "value": "stop"})
    nodes.add_server(image=engine.image, invocation=GAME, process=stop)
    nodes.source.files().chmod(0o777)
    changes = engine.for_node(UUID)
    await nodes.start(changes, changes)
    await nodes.panel.power(UUID, "start")
    await nodes.source.wait_for_line(f"{UUID}: running")
    if image:
        nodes.panel.settings_of(UUID)["container"]["image"] = image
    await nodes.transfer()


def runs(engine: Engine) -> str:
    """Return the directory of the one container of the server that runs, empty for none."""
    found = engine.client.containers(filters={"name": UUID})
    homes = [
        mount["Source"]
        for each in found
        for mount in each["Mounts"]
        if mount["Destination"] == "/home/container"
    ]
    assert len(homes) == len(found) <= 1
    return homes[0] if homes else ""


@pytest.mark.promise("running-server-runs-once")
async def test_a_running_server_moves_and_runs_on(engine: Engine, nodes: TwoNodes) -> None:
    await begun(nodes, engine)
    await nodes.destination.wait_for_line(f"{UUID}: running")
    assert nodes.panel.reports() == [(UUID, "success")]
    assert runs(engine) == str(nodes.destination.files())
    line = await nodes.source.wait_for_line("its files are kept here for 1 days in ")
    kept = nodes.source.staging / ".quarantine" / line.rpartition("/")[2]
    assert seen(kept) == seen(nodes.destination.files())
    # what it has written when it was stopped
    assert (kept / "state").read_text() == "stop\n"
    assert not nodes.source.files().exists()
    await until(
        lambda: all(node.has_ended_transfers() for node in (nodes.source, nodes.destination))
    )


async def test_a_server_whose_image_is_missing_there_runs_on(
    engine: Engine, nodes: TwoNodes
) -> None:
    await begun(nodes, engine, image="~wingsd-test/none")
    await nodes.source.wait_for_line("the server is not stopped yet, and runs on")
    assert any("there is no image wingsd-test/none" in line for line in nodes.source.log)
    assert runs(engine) == str(nodes.source.files())
    assert await nodes.cancel(nodes.source) < 300
    await until(lambda: nodes.panel.reports() == [(UUID, "failure")])
    assert runs(engine) == str(nodes.source.files())
