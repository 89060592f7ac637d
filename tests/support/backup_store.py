"""A store of backups that speaks HTTPS, and misbehaves by the path that is requested."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.node_process import NodeProcess, reactor

__all__ = ["BackupStore"]

GZIP = "application/x-gzip"
_PAGE = b"<html><body>Service Unavailable</body></html>"


class BackupStore(Resource):
    """The store: `archive` at `/ok`, and at other paths what the methods' names say."""

    isLeaf = True

    def __init__(self, archive: bytes, node: NodeProcess) -> None:
        """It shows the certificate of `node`."""
        super().__init__()
        self.archive = archive
        #: The paths that were requested.
        self.asked: list[str] = []
        #: Has the second half of what is at `/halved` sent.
        self.second_half: Deferred[None] = Deferred()
        site: Any = Site(self)
        site.log = lambda _: None
        self._factory: Any = WrappingFactory(site)
        site.noisy = self._factory.noisy = False
        certificate = DefaultOpenSSLContextFactory(str(node.key), str(node.cert), SSL.TLS_METHOD)
        self._port = reactor.listenSSL(0, self._factory, certificate, interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port.getHost().port}"

    async def close(self) -> None:
        await self._port.stopListening()
        for connection in list(self._factory.protocols):
            connection.transport.abortConnection()
        while self._factory.protocols:
            await deferLater(reactor, 0)

    def render_GET(self, request: Any) -> Any:
        path = request.path.decode()
        self.asked.append(path)
        answer = getattr(self, path.strip("/").replace("-", "_"), None)
        if answer is None:
            request.setResponseCode(404)
            return b""
        return answer(request)

    def ok(self, request: Any) -> bytes:
        return self._typed(request, GZIP)

    def also_ok(self, request: Any) -> bytes:
        return self._typed(request, "application/gzip")

    def slow(self, request: Any) -> int:
        self._typed(request, GZIP)
        Deferred.fromCoroutine(self._send_slowly(request))
        return NOT_DONE_YET

    async def _send_slowly(self, request: Any) -> None:
        size = len(self.archive) // 5 + 1
        for start in range(0, len(self.archive), size):
            request.write(self.archive[start : start + size])
            await deferLater(reactor, 0.05)
        request.finish()

    def cut(self, request: Any) -> int:
        self._typed(request, GZIP)
        request.setHeader("Content-Length", str(len(self.archive)))
        request.write(self.archive[: len(self.archive) // 2])
        reactor.callLater(0.05, request.channel.forceAbortClient)
        return NOT_DONE_YET

    def stalled(self, request: Any) -> int:
        self._typed(request, GZIP)
        request.write(self.archive[: len(self.archive) // 2])
        request.notifyFinish().addErrback(lambda _: None)
        return NOT_DONE_YET

    def halved(self, request: Any) -> int:
        self._typed(request, GZIP)
        half = len(self.archive) // 2
        request.write(self.archive[:half])

        def send_rest(_: None) -> None:
            request.write(self.archive[half:])
            request.finish()

        self.second_half.addCallback(send_rest)
        return NOT_DONE_YET

    def page(self, request: Any) -> bytes:
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return _PAGE

    def disguised_page(self, request: Any) -> bytes:
        request.setHeader("Content-Type", GZIP)
        return _PAGE

    def untyped(self, request: Any) -> bytes:
        request.setHeader("Content-Type", b"")
        request.responseHeaders.removeHeader("Content-Type")
        request.defaultContentType = None
        return self.archive

    def into_the_nodes_network(self, request: Any) -> bytes:
        request.redirect(self.url.replace("127.0.0.1", "127.0.0.2").encode() + b"/ok")
        return b""

    def circle(self, request: Any) -> bytes:
        request.redirect(f"{self.url}/circle".encode())
        return b""

    def redirected(self, request: Any) -> bytes:
        request.redirect(f"{self.url}/ok".encode())
        return b""

    def _typed(self, request: Any, kind: str) -> bytes:
        request.setHeader("Content-Type", kind)
        return self.archive
