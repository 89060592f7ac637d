"""The proxy of the tests passes on, limits, times out and drops headers as it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
import treq
import trustme
from treq.client import HTTPClient
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tests.support.http_proxy import GONE, HttpProxy
from tests.support.reactor import until

reactor: Any = installed_reactor


@implementer(IHostnameResolver)
class SlowResolver:
    """Resolves as `resolver` does, but nothing after the first name."""

    def __init__(self, resolver: Any) -> None:
        self.names: list[str] = []
        self._resolver = resolver

    def resolveHostName(
        self, resolutionReceiver: Any, hostName: str, *args: Any, **kwargs: Any
    ) -> Any:
        self.names.append(hostName)
        if len(self.names) == 1:
            return self._resolver.resolveHostName(resolutionReceiver, hostName, *args, **kwargs)
        return None


class Node(Resource):
    """Answers with what it was sent; never to /silent."""

    isLeaf = True

    def render(self, request: Request) -> bytes | int:
        if request.path == b"/silent":
            return NOT_DONE_YET
        assert request.content is not None
        request.setHeader(b"X-Unknown", b"1")
        request.setHeader(b"Retry-After", b"3")
        known = request.getHeader(b"authorization"), request.getHeader(b"x-unknown")
        return b"%r %d" % (known, len(request.content.read()))

    render_GET = render_PUT = render


@pytest_twisted.async_yield_fixture
async def proxied() -> AsyncIterator[tuple[HttpProxy, HTTPClient]]:
    authority = trustme.CA()
    pem = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    options = PrivateCertificate.loadPEM(pem).options()
    port = reactor.listenSSL(0, Site(Node()), options, interface="127.0.0.1")
    target = f"https://127.0.0.1:{port.getHost().port}"
    proxy = HttpProxy(target, authority, body_limit=1000, answer_within=0.05)
    trusted = Certificate.loadPEM(authority.cert_pem.bytes())
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([trusted]))
    yield proxy, HTTPClient(Agent(reactor, policy))
    await proxy.close()
    await port.stopListening()


async def ask(client: HTTPClient, method: str, url: str, data: bytes = b"") -> tuple[Any, bytes]:
    headers = Headers({"Authorization": ["Bearer x"], "X-Unknown": ["1"]})
    answer = await client.request(method, url, headers=headers, data=data or None)
    return answer, await treq.content(answer)


async def test_a_body_within_the_limit_is_passed_on_without_unknown_headers(
    proxied: tuple[HttpProxy, HTTPClient],
) -> None:
    proxy, client = proxied
    proxy.answer_within = 30.0
    answer, content = await ask(client, "PUT", f"{proxy.url}/a?b=1", bytes(1000))
    assert (answer.code, content) == (200, b"(b'Bearer x', None) 1000")
    assert answer.headers.getRawHeaders("retry-after") == ["3"]
    assert not answer.headers.hasHeader("x-unknown")
    assert proxy.seen == [("PUT", "/a", 1000, 200)]


async def test_a_body_above_the_limit_is_413(proxied: tuple[HttpProxy, HTTPClient]) -> None:
    proxy, client = proxied
    answer, _ = await ask(client, "PUT", f"{proxy.url}/a", bytes(1001))
    assert answer.code == 413


async def test_a_node_that_is_silent_is_504(proxied: tuple[HttpProxy, HTTPClient]) -> None:
    proxy, client = proxied
    answer, _ = await ask(client, "GET", f"{proxy.url}/silent")
    assert answer.code == 504


async def test_a_limit_counts_for_an_answer_that_is_under_way(
    proxied: tuple[HttpProxy, HTTPClient],
) -> None:
    proxy, client = proxied
    proxy.answer_within = 3600.0
    asked = Deferred.fromCoroutine(ask(client, "GET", f"{proxy.url}/silent"))
    reactor.callLater(0.1, setattr, proxy, "answer_within", 0.05)
    answer, _ = await asked
    assert answer.code == 504


async def test_a_client_that_goes_before_the_node_is_connected_needs_no_answer(
    proxied: tuple[HttpProxy, HTTPClient],
) -> None:
    proxy, client = proxied
    proxy.answer_within = 30.0
    usual = reactor.nameResolver
    resolver = SlowResolver(usual)
    reactor.installNameResolver(resolver)
    try:
        asked = Deferred.fromCoroutine(ask(client, "GET", f"{proxy.url}/a"))
        await until(lambda: len(resolver.names) == 2)
        asked.cancel()
        with pytest.raises(ResponseFailed):
            await asked
        await until(lambda: proxy.seen == [("GET", "/a", 0, GONE)])
    finally:
        reactor.installNameResolver(usual)
