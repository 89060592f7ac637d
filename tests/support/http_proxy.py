"""A reverse proxy of HTTP over TLS, as strict as those that people put in front of their nodes.

It takes whole bodies before it passes them on, refuses those above a limit with 413 or cuts them,
gives a node a time to answer in and answers 504 after that, and drops the headers that it does not
know. It can lose its own connections at any moment, as one does that is started again.
"""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import treq
import trustme
from treq.client import HTTPClient
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

#: Headers that it passes on; all others are dropped.
REQUEST_HEADERS = frozenset({b"authorization", b"content-type", b"user-agent", b"accept"})
ANSWER_HEADERS = frozenset({b"content-type", b"retry-after"})
#: Noted as the status of a request whose client did not wait for the answer, and of one whose
#: body was cut.
GONE, CUT = 499, 0
#: Seconds between two looks at whether an answer takes too long.
_LOOK_EVERY = 0.02
reactor: Any = installed_reactor


class HttpProxy:
    """A proxy in front of the node at `target`, such as `https://127.0.0.1:8080`.

    Bodies may have `body_limit` bytes, and answers may take `answer_within` seconds, also one
    that was under way when that was set. With `cuts_bodies` the connection of a longer one ends
    without an answer after that many bytes.
    `seen` has the method, the path, the bytes of the body and the status of each request.
    """

    def __init__(
        self,
        target: str,
        authority: trustme.CA,
        *,
        body_limit: int = 1 << 20,
        answer_within: float = 60.0,
        cuts_bodies: bool = False,
    ) -> None:
        self.target = target
        self.body_limit = body_limit
        self.answer_within = answer_within
        self.cuts_bodies = cuts_bodies
        self.seen: list[tuple[str, str, int, int]] = []
        trusted = Certificate.loadPEM(authority.cert_pem.bytes())
        self._pool = HTTPConnectionPool(reactor)
        policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([trusted]))
        self._client = HTTPClient(Agent(reactor, policy, pool=self._pool))
        issued = authority.issue_cert("127.0.0.1")
        own = PrivateCertificate.loadPEM(issued.private_key_and_cert_chain_pem.bytes())
        site = Site(_Forward(self), requestFactory=partial(_LimitedRequest, self))
        self._listening = reactor.listenSSL(0, site, own.options(), interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listening.getHost().port}"

    def count(self, method: str, status: int, since: int | None = None) -> int:
        """Return how many requests were answered so; with `since` only after the last of that."""
        seen = [(each[0], each[3]) for each in self.seen]
        if since is not None:
            last = max((at for at, each in enumerate(seen) if each[1] == since), default=len(seen))
            seen = seen[last + 1 :]
        return seen.count((method, status))

    async def close(self) -> None:
        await maybeDeferred(self._listening.stopListening)
        await self._pool.closeCachedConnections()

    async def forward(self, request: Request) -> None:
        """Ask the node, and answer what it answers, or 502 or 504."""
        assert request.content is not None
        body = request.content.read()
        gone, is_gone = request.notifyFinish(), []
        asking = Deferred.fromCoroutine(self._ask(request, body))

        def lose(_: Failure) -> None:
            is_gone.append(True)
            asking.cancel()

        gone.addErrback(lose)
        is_late, begun = list[bool](), reactor.seconds()

        def look() -> None:
            # each time anew: the limit may be set while this is under way
            if not is_late and reactor.seconds() - begun > self.answer_within:
                is_late.append(True)
                asking.cancel()

        looking = LoopingCall(look)
        looking.start(_LOOK_EVERY, now=False)
        try:
            status, headers, content = await asking
        except (Exception, CancelledError) as error:
            status, content = _failed(error, is_gone=bool(is_gone), is_late=bool(is_late))
            headers = Headers()
        finally:
            looking.stop()
        self._note(request, len(body), status)
        if is_gone:  # nobody is there to be answered
            return
        request.setResponseCode(status)
        for name, values in headers.getAllRawHeaders():
            if name.lower() in ANSWER_HEADERS:
                request.responseHeaders.setRawHeaders(name, values)
        request.write(content)
        request.finish()

    def refuse(self, length: int) -> bytes:
        """Return the answer to a body that is too large."""
        self.seen.append(("", "", length, 413))
        content = b"<h1>413 Request Entity Too Large</h1>"
        head = f"HTTP/1.1 413 Too Large\r\nContent-Length: {len(content)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + content

    def cut(self, length: int) -> None:
        """Note that a body was cut after so many bytes."""
        self.seen.append(("", "", length, CUT))

    async def _ask(self, request: Request, body: bytes) -> tuple[int, Headers, bytes]:
        headers = Headers()
        for name, values in request.requestHeaders.getAllRawHeaders():
            if name.lower() in REQUEST_HEADERS:
                headers.setRawHeaders(name, values)
        answer = await self._client.request(
            request.method.decode(),
            self.target + request.uri.decode(),
            headers=headers,
            data=BytesIO(body) if body else None,
        )
        return answer.code, answer.headers, await treq.content(answer)

    def _note(self, request: Request, length: int, status: int) -> None:
        path = urlsplit(request.uri.decode()).path
        self.seen.append((request.method.decode(), path, length, status))


class _LimitedRequest(Request):
    """A request that is answered and disconnected when its body is announced as too long."""

    def __init__(self, proxy: HttpProxy, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._proxy = proxy
        self._is_refused = False
        self._taken = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        if length is None or length <= self._proxy.body_limit:
            return
        self._is_refused = True
        if not self._proxy.cuts_bodies:
            self.channel.writeSequence([self._proxy.refuse(length)])
            self.channel.loseConnection()

    def handleContentChunk(self, data: bytes) -> None:
        if not self._is_refused:
            super().handleContentChunk(data)
            return
        self._taken += len(data)
        if self._proxy.cuts_bodies and self._taken > self._proxy.body_limit:
            self._proxy.cut(self._taken)
            self.channel.forceAbortClient()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._is_refused:
            super().requestReceived(command, path, version)


class _Forward(Resource):
    isLeaf = True

    def __init__(self, proxy: HttpProxy) -> None:
        super().__init__()
        self._proxy = proxy

    def render(self, request: Request) -> int:
        Deferred.fromCoroutine(self._proxy.forward(request)).addErrback(_fail, request)
        return NOT_DONE_YET


def _failed(error: BaseException, *, is_gone: bool, is_late: bool) -> tuple[int, bytes]:
    """Return what a client is told where a node was asked in vain. Raises what is no such error.

    How it ends that was cancelled depends on how far it was: not connected, as if there were no
    such host.
    """
    if is_gone:
        return GONE, b""
    if is_late or isinstance(error, (TimeoutError, TimedOut)):
        return 504, b"<h1>504 Gateway Time-out</h1>"
    if isinstance(error, (ConnectError, RequestTransmissionFailed, ResponseFailed)):
        return 502, b"<h1>502 Bad Gateway</h1>"
    raise error


def _fail(failure: Failure, request: Request) -> None:
    """Tell of a fault of the proxy, and end the connection."""
    Logger().failure("a proxy of the tests has failed", failure)
    request.loseConnection()
