"""What the fake Panel asks of its nodes, over real sockets, TLS included."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import treq
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support import Node, NodeError, Panel, server_settings
from wingsd.util.net import ServerCertificate

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
reactor: Any = installed_reactor


class FakeNode(Resource):
    """Notes what it is asked; answers `status` and `body`, or never when `status` is 0."""

    isLeaf = True

    def __init__(self) -> None:
        Resource.__init__(self)
        self.asked: list[tuple[str, str, Any]] = []
        self.tokens: list[str | None] = []
        self.status = 204
        self.body = b""
        self.on_call: Callable[[], None] = lambda: None
        self.called: Deferred[None] = Deferred()

    def render(self, request: Any) -> bytes | int:
        content = request.content.read()
        body = json.loads(content) if content else None
        self.asked.append((request.method.decode(), request.uri.decode(), body))
        self.tokens.append(request.getHeader("Authorization"))
        self.on_call()
        if not self.called.called:
            self.called.callback(None)
        if not self.status:
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        return self.body


@asynccontextmanager
async def listening(directory: Path | None = None) -> AsyncIterator[tuple[FakeNode, str]]:
    """Serve a fake node, with TLS when it gets a directory for its `ca.pem`."""
    fake = FakeNode()
    site = Site(fake)
    factory: Any = site
    if directory is not None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        pem = str(directory / "node.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
        factory = TLSMemoryBIOFactory(ServerCertificate(pem, pem), False, site)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    scheme = "http" if directory is None else "https"
    try:
        yield fake, f"{scheme}://127.0.0.1:{port.getHost().port}"
    finally:
        await maybeDeferred(port.stopListening)


@asynccontextmanager
async def panel_with(address: str, **fields: Any) -> AsyncIterator[tuple[Panel, Node, Node]]:
    """Yield a listening Panel, a node of it that can be reached, and one that is only a name."""
    panel = Panel()
    await panel.listen(reactor)
    node = panel.add_node(address, reachable=True, **fields)
    other = panel.add_node("https://destination.invalid:8080", ip="127.0.0.2", port=30000)
    try:
        yield panel, node, other
    finally:
        await panel.close()


async def report(panel: Panel, node: Node, outcome: str) -> int:
    """Tell the Panel how a transfer ended, as `node` would."""
    url = f"{panel.url}/api/remote/servers/{UUID}/transfer/{outcome}"
    headers = Headers({"Authorization": [f"Bearer {node.token_id}.{node.token}"]})
    pool = HTTPConnectionPool(reactor, persistent=False)
    answer = await treq.post(url, headers=headers, pool=pool)
    return int(answer.code)


async def test_a_server_is_made_and_started_on_its_node() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, _):
        fake.status = 202
        await panel.create_server_on(node, server_settings(UUID), start_on_completion=True)
        await panel.power(UUID, "start")
    assert panel.node_of(UUID) == node
    assert fake.asked == [
        ("POST", "/api/servers", {"uuid": UUID, "start_on_completion": True}),
        ("POST", f"/api/servers/{UUID}/power", {"action": "start"}),
    ]
    assert fake.tokens == [f"Bearer {node.token}"] * 2


async def test_a_transfer_is_given_to_the_source() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, other):
        fake.status = 202
        panel.add_server(server_settings(UUID), node)
        await panel.transfer(UUID, other, backups=[])
        assert panel.in_transfer(UUID)
    ((method, path, order),) = fake.asked
    assert (method, path) == ("POST", f"/api/servers/{UUID}/transfer")
    kind, token = order.pop("token").split()
    claims = jwt.decode(token, other.token, ["HS256"], audience=other.address)
    assert (kind, claims["sub"]) == ("Bearer", UUID)
    assert order == {
        "server_id": UUID,
        "url": "https://destination.invalid:8080/api/transfers",
        "server": {"uuid": UUID, "start_on_completion": False},
        "backups": [],
    }


async def test_a_transfer_that_the_source_refuses_is_not_open() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, other):
        fake.status, fake.body = 409, b'{"error": "it is busy"}'
        panel.add_server(server_settings(UUID), node)
        with pytest.raises(NodeError) as caught:
            await panel.transfer(UUID, other)
        assert (caught.value.status, caught.value.body) == (409, {"error": "it is busy"})
        assert not panel.in_transfer(UUID)


async def test_success_has_the_source_delete_its_copy_before_it_is_answered() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, other):
        panel.add_server(server_settings(UUID), node)
        panel.open_transfer(UUID, other)
        answered: list[int] = []
        while_deleting: list[tuple[bool, list[int]]] = []
        fake.on_call = lambda: while_deleting.append((panel.node_of(UUID) is other, [*answered]))
        answered.append(await report(panel, other, "success"))
    assert while_deleting == [(True, [])]
    assert answered == [204]
    assert fake.asked == [("DELETE", f"/api/servers/{UUID}", None)]
    assert panel.deletions == [(UUID, 204)]


async def test_a_copy_that_cannot_be_deleted_hinders_nothing() -> None:
    async with listening() as (_, address):
        pass
    async with panel_with(address) as (panel, node, other):
        panel.add_server(server_settings(UUID), node)
        panel.open_transfer(UUID, other)
        assert await report(panel, other, "success") == 204
        ((uuid, why),) = panel.deletions
    assert uuid == UUID
    assert str(why).startswith(f"{address} does not answer: ")


async def test_a_failure_and_a_source_that_is_only_a_name_delete_nothing() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, other):
        panel.add_server(server_settings(UUID), node)
        panel.open_transfer(UUID, other)
        assert await report(panel, node, "failure") == 204
        panel.add_server(server_settings(UUID), other)
        panel.open_transfer(UUID, node)
        assert await report(panel, node, "success") == 204
    assert fake.asked == []
    assert panel.deletions == []


async def test_close_does_not_wait_for_a_deletion() -> None:
    async with listening() as (fake, address), panel_with(address) as (panel, node, other):
        fake.status = 0
        panel.add_server(server_settings(UUID), node)
        panel.open_transfer(UUID, other)
        reporting = Deferred.fromCoroutine(report(panel, other, "success"))
        reporting.addErrback(lambda _: None)
        await fake.called
        await panel.close()
        await reporting
        ((_, why),) = panel.deletions
        assert str(why).startswith(f"{address} does not answer: ")


async def test_a_node_with_a_private_authority(tmp_path: Path) -> None:
    async with listening(tmp_path) as (fake, address):
        fake.status, fake.body = 200, b"<html>"
        async with panel_with(address, ca=str(tmp_path / "ca.pem")) as (panel, node, _):
            assert await panel.ask(node, "GET", "/api/system") == (200, "<html>")
            node.ca = ""
            with pytest.raises(NodeError, match="certificate"):
                await panel.ask(node, "GET", "/api/system")
    assert fake.asked == [("GET", "/api/system", None)]
