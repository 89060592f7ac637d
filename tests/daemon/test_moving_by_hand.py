"""A server is moved by hand from one real daemon to another, and no Panel is asked or told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.archives import seen
from tests.daemon.harness import UUID
from tests.daemon.operator import Ran, wingsctl
from tests.daemon.pair import SLOW, Pair, Peer
from tests.daemon.watching import until
from tests.support import process_configuration, server_settings

MOVED = "the server has moved to another node"


def settings(pair: Pair) -> Path:
    """Return a file with what the server is, as its Panel once told."""
    path = pair.source.directory / "settings.json"
    description = {
        "settings": server_settings(UUID, name="Lobby"),
        "process_configuration": process_configuration(),
    }
    path.write_text(json.dumps(description))
    return path


async def alone(pair: Pair, size: int = 100_000) -> None:
    """Start both nodes, with the server at the source, and no Panel anywhere."""
    pair.add_server(size)
    await pair.source.start_alone()
    await pair.destination.start_alone()


async def invite(pair: Pair, *options: str) -> list[str]:
    """Have the server expected; return the words that send it, without the command."""
    url = ("--url", pair.destination.node.address)
    ran = await wingsctl(pair.destination, "receive", UUID, *url, *options)
    assert (ran.status, ran.err) == (0, ""), ran
    (line,) = [line for line in ran.out.splitlines() if line.startswith("  wingsctl send")]
    return shlex.split(line)[1:]


def send(pair: Pair, words: list[str], *options: str) -> Deferred[Ran]:
    """Begin to send it from a node that has only its files."""
    return wingsctl(pair.source, *words, "--settings", str(settings(pair)), *options)


async def told(peer: Peer) -> Any:
    """Return what a node knows of the server."""
    return (await wingsctl(peer, "show", UUID, "--json")).json


async def stays(pair: Pair) -> None:
    """See that the server is at its source alone, and may be started there."""
    await until(lambda: not any("volumes" in name for name in pair.destination.left()))
    known = (await told(pair.source))["server"]
    assert (known["state"], known["hold"]) == ("offline", "")
    assert (pair.source.files() / "world" / "region.mca").exists()


@pytest_twisted.ensureDeferred
async def test_a_server_moves_by_the_line_that_its_destination_printed(pair: Pair) -> None:
    await alone(pair)
    before = seen(pair.source.files())
    sent = await send(pair, await invite(pair))
    assert sent.status == 0, sent
    assert f"{UUID}: moved:" in sent.out
    assert seen(pair.destination.files()) == before
    for peer, way in ((pair.source, "out"), (pair.destination, "in")):
        (past,) = (await told(peer))["past"]
        assert (past["direction"], past["outcome"], past["by_hand"]) == (way, "success", True)
        assert (past["files"], past["reason"]) == (2, "")
    # What it was is still there, and is not started any more.
    assert seen(pair.source.files()) == before
    assert (await told(pair.source))["server"]["hold"] == MOVED
    # The destination knows it, also after a restart.
    pair.destination.signal("TERM")
    await pair.destination.ended()
    await pair.destination.start_alone()
    known = (await told(pair.destination))["server"]
    assert (known["name"], known["by_hand"], known["hold"]) == ("Lobby", True, "")


@pytest_twisted.ensureDeferred
async def test_what_its_panel_told_goes_along_and_its_source_deletes_it_when_told_so(
    pair: Pair,
) -> None:
    pair.add_server(name="of the Panel")
    await pair.start()
    before = seen(pair.source.files())
    waiting = wingsctl(
        pair.destination, "receive", UUID, "--wait", "--json", "--address", "127.0.0.1:25599"
    )
    await pair.destination.wait_for_line("expected, to be moved here by hand")
    # The one token that is good is the second.
    sent = await wingsctl(pair.source, *await invite(pair), "--delete", "--json")
    assert (sent.status, sent.json["outcome"]) == (0, "success"), sent
    await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    assert not pair.source.files().exists()
    assert seen(pair.destination.files()) == before
    invited, came = map(json.loads, (await waiting).out.splitlines())
    assert invited["url_is_certain"] is False
    assert (came["outcome"], came["direction"]) == ("success", "in")
    assert (await told(pair.destination))["server"]["name"] == "of the Panel"
    # The Panel has not heard of it, and has it where it was.
    assert (pair.panel.reports(), pair.panel.deletions) == ([], [])
    assert pair.panel.node_of(UUID) is pair.source.node


@pytest_twisted.ensureDeferred
async def test_what_is_refused_stops_no_server(pair: Pair) -> None:
    await alone(pair)
    words = await invite(pair)
    refused = await wingsctl(pair.source, *words)
    assert refused.status == 1
    assert "give the server's settings with --settings FILE" in refused.err
    refused = await wingsctl(pair.source, "receive", UUID)
    assert refused.status == 1
    assert "there are files of a server of that name already" in refused.err
    await wingsctl(pair.destination, "cancel", UUID)
    refused = await send(pair, words)
    assert refused.status == 1
    assert "this node does not expect the server by it any more" in refused.err
    assert not [line for line in pair.source.log if "stopping the server" in line]
    await stays(pair)


@pytest_twisted.ensureDeferred
async def test_a_token_is_good_once(pair: Pair) -> None:
    await alone(pair)
    words = await invite(pair)
    assert (await send(pair, words)).status == 0
    # A node that has forgotten all that it did, with another copy of the server.
    await pair.source.close()
    (pair.source.directory / "wingsd.db").unlink()
    await pair.source.start_alone()
    again = await send(pair, words)
    assert again.status == 1
    assert "it was used for a transfer before" in again.err


@pytest.mark.parametrize("end", ["source", "destination"])
@pytest_twisted.ensureDeferred
async def test_it_is_cancelled_from_either_end(pair: Pair, end: str) -> None:
    await alone(pair, 24_000_000)
    words = await invite(pair)
    assert pair.destination.line is not None
    pair.destination.line.bytes_per_second = SLOW
    sending = send(pair, words)
    await pair.destination.wait_for_line("receiving the archive")
    found = (await wingsctl(pair.source, "transfers", "--json")).json["running"]
    assert [(each["server"], each["step"]) for each in found] == [(UUID, "send")]
    cancelled = await wingsctl(getattr(pair, end), "cancel", UUID)
    assert cancelled.status == 0
    sent = await sending
    assert sent.status == 1
    assert "the transfer was cancelled" in sent.err
    await stays(pair)


@pytest.mark.parametrize(
    "moment",
    ["receiving the archive", "moving the files into place", "writing down that the server is"],
)
@pytest_twisted.ensureDeferred
async def test_a_destination_that_is_killed_has_it_whole_or_not_at_all(
    pair: Pair, moment: str
) -> None:
    await alone(pair)
    before = seen(pair.source.files())
    sending = send(pair, await invite(pair), "--delete")
    await pair.destination.wait_for_line(moment)
    pair.destination.signal("KILL")
    await pair.destination.ended()
    await pair.destination.start_alone()
    sent = await sending
    if sent.status == 0:
        assert seen(pair.destination.files()) == before
        assert (await told(pair.destination))["server"]["by_hand"]
        await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    else:
        assert sent.status == 1, sent
        await stays(pair)


@pytest.mark.parametrize("moment", ["sending the archive", "waiting for the destination"])
@pytest_twisted.ensureDeferred
async def test_a_source_that_is_killed_asks_its_destination_when_it_is_back(
    pair: Pair, moment: str
) -> None:
    await alone(pair, 2_000_000)
    before = seen(pair.source.files())
    sending = send(pair, await invite(pair))
    await pair.source.wait_for_line(moment)
    pair.source.signal("KILL")
    assert (await sending).status == 3
    await pair.source.start_alone()
    while (found := await told(pair.source))["running"] is not None:
        assert found["running"]["doing"].startswith("finding out what became of it")
    (past,) = found["past"]
    assert past["by_hand"]
    assert seen(pair.source.files()) == before
    if past["outcome"] == "success":
        assert found["server"]["hold"] == MOVED
        assert seen(pair.destination.files()) == before
    else:
        assert past["reason"] == "this node was restarted meanwhile"
        await until(lambda: not any("volumes" in name for name in pair.destination.left()))
