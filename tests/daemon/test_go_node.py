"""A server goes to a Go Wings node, which keeps no links."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.daemon import reactor
from tests.daemon.go_node import UNEXPECTED, GoNode
from tests.daemon.harness import UUID, sha256
from tests.daemon.pair import Pair

# Bytes: what the sockets between the two nodes hold, but a Go node does not read on for, and more.
SMALL = 1_000_000
LARGE = 20_000_000


@pytest.fixture
def go(pair: Pair, tmp_path: Path) -> Iterator[GoNode]:
    """A Go node in the place of the pair's destination, which is not started."""
    made = GoNode(
        pair.panel, str(pair.destination.directory / "node.pem"), str(tmp_path / "ca.pem")
    )
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def begin(pair: Pair, go: GoNode, size: int = 100_000) -> None:
    pair.add_server(size)
    await pair.panel.listen(reactor)
    await pair.source.start()
    await pair.panel.transfer(UUID, go.node)


@pytest_twisted.ensureDeferred
async def test_it_gets_whole_files_where_it_would_empty_links(pair: Pair, go: GoNode) -> None:
    await begin(pair, go)
    world = (pair.source.files() / "world" / "region.mca").read_bytes()
    await pair.source.wait_for_line("state success")
    await pair.source.wait_for_line("its files are deleted")
    assert go.checksum == sha256(bytes(go.archive))
    with tarfile.open(fileobj=io.BytesIO(go.archive), mode="r:gz") as tar:
        members = {member.name.removeprefix("./"): member for member in tar}
        assert not [name for name, member in members.items() if member.issym() or member.islnk()]
        for name in ("world/region.mca", "world/same.mca", "latest"):
            file = tar.extractfile(members[name])
            assert file is not None
            assert file.read() == world
    assert pair.panel.node_of(UUID) is go.node
    assert pair.panel.reports() == [(UUID, "success")]
    assert pair.source.left() == []


@pytest_twisted.ensureDeferred
async def test_what_it_is_asked_does_no_harm_and_the_upload_is_as_it_wants_it(
    pair: Pair, go: GoNode
) -> None:
    await begin(pair, go)
    await pair.source.wait_for_line("state success")
    asked, upload = go.requests
    assert (asked.method, upload.method) == (b"OPTIONS", b"POST")
    assert asked.target == upload.target == b"/api/transfers"
    headers = dict(upload.headers)
    assert headers[b"authorization"].startswith(b"Bearer ey")
    assert headers[b"content-type"].startswith(b"multipart/form-data; boundary=")
    assert headers[b"transfer-encoding"] == b"chunked"
    assert not {b"content-length", b"expect"} & set(headers)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("when", ["early", "dying", "late"])
@pytest_twisted.ensureDeferred
async def test_its_refusal_is_read_and_told(pair: Pair, go: GoNode, when: str, size: int) -> None:
    go.fails = when
    await begin(pair, go, size)
    line = await pair.source.wait_for_line("failed while")
    assert UNEXPECTED["error"] in line
    assert "500 Internal Server Error; the reason is in its log" in line
    assert UNEXPECTED["request_id"] in line
    await pair.source.wait_for_line("state failure")
    await pair.panel.called("/transfer/failure", times=2)
    assert pair.panel.node_of(UUID) is pair.source.node
    assert pair.source.files().is_dir()
