"""A server goes to a Go Wings node, which keeps no links."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.go import UNEXPECTED, GoNode
from tests.support.sample_server import UUID, sha256
from tests.support.two_nodes import TwoNodes

# Bytes: what the sockets between the two nodes hold, but a Go node does not read on for, and more.
SMALL = 1_000_000
LARGE = 20_000_000


@pytest.fixture
def go(nodes: TwoNodes) -> Iterator[GoNode]:
    """A Go node in the place of the destination, which is not started."""
    made = GoNode(nodes.destination)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def begin(nodes: TwoNodes, go: GoNode, size: int = 100_000) -> None:
    nodes.add_server(size)
    await nodes.source.start_loaded()
    await nodes.panel.transfer(UUID, go.node)


@pytest.mark.promise("backups-suit-the-destination")
async def test_a_go_node_is_sent_files_in_place_of_links(nodes: TwoNodes, go: GoNode) -> None:
    await begin(nodes, go)
    world = (nodes.source.files() / "world" / "region.mca").read_bytes()
    await nodes.source.wait_for_line("state success")
    await nodes.source.wait_for_line("files deleted")
    assert go.checksum == sha256(bytes(go.archive))
    with tarfile.open(fileobj=io.BytesIO(go.archive), mode="r:gz") as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        assert not [name for name, member in members.items() if member.issym() or member.islnk()]
        for name in ("world/region.mca", "world/same.mca", "latest"):
            file = tar.extractfile(members[name])
            assert file is not None
            assert file.read() == world
    assert nodes.panel.node_of(UUID) is go.node
    assert nodes.panel.reports() == [(UUID, "success")]
    assert nodes.source.paths_of_server() == []


async def test_a_go_node_gets_options_and_a_chunked_form(nodes: TwoNodes, go: GoNode) -> None:
    await begin(nodes, go)
    await nodes.source.wait_for_line("state success")
    asked, upload = go.requests
    assert (asked.method, upload.method) == (b"OPTIONS", b"POST")
    assert asked.target == upload.target == b"/api/transfers"
    headers = dict(upload.headers)
    assert headers[b"authorization"].startswith(b"Bearer ey")
    assert headers[b"content-type"].startswith(b"multipart/form-data; boundary=")
    assert headers[b"transfer-encoding"] == b"chunked"
    assert not {b"content-length", b"expect"} & set(headers)


@pytest.mark.promise("refusal-is-understood")
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_the_refusal_of_a_go_node_is_logged(nodes: TwoNodes, go: GoNode, size: int) -> None:
    go.fails = "early"
    await begin(nodes, go, size)
    source, since = nodes.source, 0
    for number, when in enumerate(("early", "dying", "late"), 1):
        if number > 1:
            go.fails, since = when, len(source.log)
            await nodes.panel.transfer(UUID, go.node)
        line = await source.wait_for_line("failed while", since)
        assert UNEXPECTED["error"] in line
        assert "500 Internal Server Error; the reason is in its log" in line
        assert UNEXPECTED["request_id"] in line
        await source.wait_for_line("state failure", since)
        await nodes.panel.called("/transfer/failure", times=2 * number)
        assert nodes.panel.node_of(UUID) is source.node
        assert source.files().is_dir()
