"""Downloads from a URL that are under way: listed, looked at, cancelled and ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred

from tests.api.file_node import FILES, FileNode, Make
from tests.api.file_pulls import (
    BODY,
    SOURCE,
    SlowServer,
    gone,
    pull,
    slowly,
    url_of,
)
from tests.api.node import UUID
from tests.http_client.test_download import says
from tests.http_client.test_redirects import leads_to
from tests.support.reactor import ClockedReactor, until
from tests.transfers.peers import Peer
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.events import SUSPENDED, Event
from wingsd.http_client.download import FetchLimits
from wingsd.servers.operations import Hold, Operation

ALL = [PTERODACTYL, PELICAN, CALAGOPUS]

# The list


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN])
async def test_go_panels_get_capitals_and_null(make: Make, family: str) -> None:
    node = make(family)
    assert (await node.call("GET", f"{FILES}/pull")).json == {"downloads": None}
    server, identifier = await slowly(node)
    (found,) = (await node.call("GET", f"{FILES}/pull")).json["downloads"]
    assert found["Identifier"] == identifier
    assert 0 <= found["Progress"] < 1
    assert set(found) == {"Identifier", "Progress"}
    server.released.set()
    await server.peer.outcome


async def test_calagopus_panel_gets_bytes(make: Make) -> None:
    node = make(CALAGOPUS)
    assert await node.packed("pull", {}, "GET") == (200, {"downloads": []})
    server, identifier = await slowly(node, root="/x")
    _, found = await node.packed("pull", {}, "GET")
    (entry,) = found["downloads"]
    assert entry.pop("progress") in (0, len(BODY) // 2)
    assert entry == {"identifier": identifier, "destination": "x/mod.jar", "total": len(BODY)}
    server.released.set()
    await server.peer.outcome


async def test_calagopus_panel_may_look_first(make: Make) -> None:
    node = make(CALAGOPUS)
    header = b"Content-Disposition: attachment; filename=h.jar\r\nX: 1\r\nX: 2\r\n"
    last = Peer(says(SOURCE + header + b"\r\n"))
    first = leads_to(url_of(last, "/other.jar"))
    status, found = await node.packed("pull/query", {"url": url_of(first)})
    await first.outcome
    await last.outcome
    assert (status, found) == (
        200,
        {
            "file_name": "h.jar",
            "file_size": len(BODY),
            "final_url": url_of(last, "/other.jar"),
            "headers": {
                "content-length": str(len(BODY)),
                "content-disposition": "attachment; filename=h.jar",
                "x": "1, 2",
            },
        },
    )
    assert node.names() == []


async def test_looking_at_a_network_of_the_node_is_refused(make: Make) -> None:
    reply = await make(CALAGOPUS).post("pull/query", {"url": "http://127.0.0.2/a"})
    assert (reply.status, reply.json["code"]) == (417, "address-blocked")


# Ends before the end


@pytest.mark.parametrize("family", ALL)
async def test_a_download_is_cancelled(make: Make, family: str) -> None:
    node = make(family)
    server, identifier = await slowly(node)
    reply = await node.call("DELETE", f"{FILES}/pull/{identifier}")
    assert reply.status == (200 if family == CALAGOPUS else 204)
    await gone(node, server)
    assert node.files.said == ["Downloading mod.jar from 127.0.0.1 was cancelled."]


async def test_an_unknown_download_is_cancelled_as_well(make: Make) -> None:
    reply = await make().call("DELETE", f"{FILES}/pull/{UUID}")
    assert (reply.status, reply.content) == (204, b"")


def suspend(node: FileNode) -> None:
    node.bus.publish(Event(UUID, SUSPENDED))


def hold(operation: Operation) -> Callable[[FileNode], None]:
    def begin(node: FileNode) -> None:
        node.files.operations.hold = Hold(operation, "it is under way")

    return begin


@pytest.mark.promise("file-changes-give-way")
@pytest.mark.parametrize(
    "end",
    [
        suspend,
        hold(Operation.DELETE),
        hold(Operation.INSTALL),
        hold(Operation.TRANSFER_OUT),
        lambda node: Deferred.fromCoroutine(node.pulls.stop()),
    ],
    ids=["suspended", "deleted", "installed", "transferred", "the daemon ends"],
)
async def test_what_takes_the_server_cancels_its_downloads(
    make: Make, end: Callable[[FileNode], object]
) -> None:
    node = make()
    server, _ = await slowly(node)
    end(node)
    await gone(node, server)


async def test_a_download_ends_when_it_takes_too_long(make: Make) -> None:
    clock = ClockedReactor()
    node = make(limits=FetchLimits(total=60), clock=clock)
    server, _ = await slowly(node)
    clock.advance(60)
    await gone(node, server)
    assert "it took longer than" in node.files.said[0]


async def test_a_long_download_goes_on_behind_its_answer(make: Make) -> None:
    node = make(patience=0.2)
    server = SlowServer()
    status, answer = await pull(node, server.url, foreground=True)
    assert (status, list(answer)) == (202, ["identifier"])
    server.released.set()
    await until(lambda: not node.pulls.of(UUID))
    assert await server.peer.outcome is True
    assert node.names() == ["mod.jar"]
    assert node.files.said == ["Downloading mod.jar from 127.0.0.1 is complete."]
