"""Direct transfers between real daemons, of which no Panel is asked or informed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support import process_configuration, server_settings
from tests.support.archives import seen
from tests.support.node_process import SLOW, CommandResult, NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.two_nodes import TwoNodes

MOVED = "the server has moved to another node"


def settings(nodes: TwoNodes) -> Path:
    """Return a file with what the server is, as its Panel once told."""
    path = nodes.source.directory / "settings.json"
    description = {
        "settings": server_settings(UUID, name="Lobby"),
        "process_configuration": process_configuration(),
    }
    path.write_text(json.dumps(description))
    return path


async def alone(nodes: TwoNodes, size: int = 100_000) -> None:
    """Start both nodes, with the server at the source, and no Panel anywhere."""
    nodes.add_server(size)
    await nodes.source.start_without_panel()
    await nodes.destination.start_without_panel()


async def invite(nodes: TwoNodes, *options: str) -> list[str]:
    """Have the server expected; return the words that send it, without the command."""
    url = ("--url", nodes.destination.node.address)
    ran = await nodes.destination.wingsctl("receive", UUID, *url, *options)
    assert (ran.status, ran.err) == (0, ""), ran
    (line,) = [line for line in ran.out.splitlines() if line.startswith("  wingsctl send")]
    return shlex.split(line)[1:]


def send(nodes: TwoNodes, words: list[str], *options: str) -> Deferred[CommandResult]:
    """Begin to send it from a node that has only its files."""
    return nodes.source.wingsctl(*words, "--settings", str(settings(nodes)), *options)


async def told(peer: NodeProcess) -> Any:
    return (await peer.wingsctl("show", UUID, "--json")).json


async def server_at(peer: NodeProcess) -> Any:
    """Return what a node knows of the server, when it knows it: it may just have been started."""
    while (known := (await told(peer))["server"]) is None:
        pass
    return known


async def stays(nodes: TwoNodes) -> None:
    """See that the server is at its source alone, and may be started there."""
    await until(lambda: not any("volumes" in name for name in nodes.destination.paths_of_server()))
    known = await server_at(nodes.source)
    assert (known["state"], known["hold"]) == ("offline", "")
    assert (nodes.source.files() / "world" / "region.mca").exists()


async def test_a_server_moves_by_the_line_that_its_destination_printed(nodes: TwoNodes) -> None:
    await alone(nodes)
    before = seen(nodes.source.files())
    sent = await send(nodes, await invite(nodes))
    assert sent.status == 0, sent
    assert f"{UUID}: moved:" in sent.out
    assert seen(nodes.destination.files()) == before
    for peer, way in ((nodes.source, "out"), (nodes.destination, "in")):
        (past,) = (await told(peer))["past"]
        assert (past["direction"], past["outcome"], past["by_hand"]) == (way, "success", True)
        assert (past["files"] > 0, past["reason"]) == (True, "")
    # What it was is still there, and is not started any more.
    assert seen(nodes.source.files()) == before
    assert (await told(nodes.source))["server"]["hold"] == MOVED
    # The destination knows it, also after a restart.
    nodes.destination.signal("TERM")
    await nodes.destination.ended()
    await nodes.destination.start_without_panel()
    known = await server_at(nodes.destination)
    assert (known["name"], known["by_hand"], known["hold"]) == ("Lobby", True, "")


async def test_a_direct_transfer_takes_the_panels_settings_along_and_deletes_the_copy_on_request(
    nodes: TwoNodes,
) -> None:
    nodes.add_server(name="of the Panel")
    await nodes.start()
    before = seen(nodes.source.files())
    waiting = nodes.destination.wingsctl(
        "receive", UUID, "--wait", "--json", "--address", "127.0.0.1:25599"
    )
    await nodes.destination.wait_for_line("expected, by a direct transfer")
    # The one token that is good is the second.
    sent = await nodes.source.wingsctl(*await invite(nodes), "--delete", "--json")
    assert (sent.status, sent.json["outcome"]) == (0, "success"), sent
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert not nodes.source.files().exists()
    assert seen(nodes.destination.files()) == before
    invited, came = map(json.loads, (await waiting).out.splitlines())
    assert invited["url_is_certain"] is False
    assert (came["outcome"], came["direction"]) == ("success", "in")
    assert (await told(nodes.destination))["server"]["name"] == "of the Panel"
    # The Panel has not heard of it, and has it where it was.
    assert (nodes.panel.reports(), nodes.panel.deletions) == ([], [])
    assert nodes.panel.node_of(UUID) is nodes.source.node


@pytest.mark.parametrize("end", ["source", "destination"])
async def test_either_node_can_cancel_a_direct_transfer(nodes: TwoNodes, end: str) -> None:
    await alone(nodes, 24_000_000)
    words = await invite(nodes)
    nodes.destination.throttle(SLOW)
    sending = send(nodes, words)
    await nodes.destination.wait_for_line("receiving the archive")
    await nodes.source.wait_for_line("sending the archive")
    found = (await nodes.source.wingsctl("transfers", "--json")).json["running"]
    assert [(each["server"], each["step"]) for each in found] == [(UUID, "send")]
    cancelled = await getattr(nodes, end).wingsctl("cancel", UUID)
    assert cancelled.status == 0
    sent = await sending
    assert sent.status == 1
    assert "the transfer was cancelled" in sent.err
    await stays(nodes)


@pytest.mark.promise("destination-decides")
@pytest.mark.parametrize("moment", ["receiving the archive", "recording that the server is"])
async def test_a_killed_destination_has_it_whole_or_not(nodes: TwoNodes, moment: str) -> None:
    await alone(nodes)
    before = seen(nodes.source.files())
    sending = send(nodes, await invite(nodes), "--delete")
    await nodes.destination.wait_for_line(moment)
    await nodes.destination.kill()
    await nodes.destination.start_without_panel()
    sent = await sending
    if sent.status == 0:
        assert seen(nodes.destination.files()) == before
        assert (await server_at(nodes.destination))["by_hand"]
        await nodes.source.wait_for_line(f"{UUID}: files deleted")
    else:
        assert sent.status == 1, sent
        await stays(nodes)


@pytest.mark.promise("destination-decides")
async def test_a_killed_source_asks_its_destination_later(nodes: TwoNodes) -> None:
    nodes.destination.transfers = {"moves": {"enabled": False}}  # one stream
    await alone(nodes, 2_000_000)
    before = seen(nodes.source.files())
    sending = send(nodes, await invite(nodes))
    await nodes.source.wait_for_line("waiting for the destination")
    nodes.source.signal("KILL")
    assert (await sending).status == 3
    await nodes.source.start_without_panel()
    while (found := await told(nodes.source))["running"] is not None:
        assert found["running"]["doing"].startswith("finding out its result")
    (past,) = found["past"]
    assert past["by_hand"]
    assert seen(nodes.source.files()) == before
    if past["outcome"] == "success":
        assert (await server_at(nodes.source))["hold"] == MOVED
        assert seen(nodes.destination.files()) == before
    else:
        assert past["reason"] == "this node was restarted during the transfer"
        await until(
            lambda: not any("volumes" in name for name in nodes.destination.paths_of_server())
        )


# Direct transfers between two real daemons that resume, without a Panel anywhere


MIB = 1 << 20
SIZE = 24 * MIB
#: What may be sent twice: the batches that were under way, and what TLS and HTTP add.
TWICE = 4 * MIB


async def half_moved(nodes: TwoNodes, *options: str) -> Deferred[CommandResult]:
    """Begin to send the server in small batches; return when half of it has been sent."""
    for node in (nodes.source, nodes.destination):
        node.transfers = {"moves": {"batch": 1}}
    await alone(nodes, SIZE)
    half: Deferred[None] = Deferred()
    nodes.destination.line.after(SIZE // 2, lambda: half.callback(None))
    sending = send(nodes, await invite(nodes), *options)
    await half
    return sending


@pytest.mark.promise("direct-move-continues")
async def test_a_direct_move_goes_on_where_it_was(nodes: TwoNodes) -> None:
    sending = await half_moved(nodes, "--delete")
    before = seen(nodes.source.files())
    await nodes.source.kill()
    await nodes.destination.kill()
    await nodes.destination.start_without_panel()
    await nodes.source.start_without_panel()
    # A command that misses its daemon for a moment does not notice that it is another one.
    assert (await sending).status in {0, 3}
    await nodes.source.wait_for_line(f"{UUID}: files deleted")
    assert seen(nodes.destination.files()) == before
    assert (await told(nodes.destination))["server"]["by_hand"]
    assert nodes.destination.line.sent < SIZE + TWICE
    source = [*nodes.source.past, *nodes.source.log]
    assert any("resumed: " in line for line in source)
    assert not any("transfer failed" in line for line in source)
    for node in (nodes.source, nodes.destination):
        await until(node.has_ended_transfers)
    assert nodes.panel.reports() == []
