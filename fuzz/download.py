"""A URL of a user, and the other server's answer: where it leads, what it is called, and its end.

The input is a URL, a NUL, and an answer. The answer goes on to its end, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import h11
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz.findings import Finding, fields, pieces
from tests.http_client.wire import Endpoint
from wingsd.errors import DownloadFailed, UrlInvalid
from wingsd.http_client.download import BodyBlocks, FetchLimits, GuardedExchange
from wingsd.http_client.urls import WebUrl, disposition_name, plain_name

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"http://",
    b"https://",
    b"[::ffff:127.0.0.1]",
    b"127.0.0.1",
    b"0x7f",
    b"xn--",
    b"@",
    b"\\",
    b"%25",
    b"../",
    b"\0",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: ",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Disposition: attachment; filename=",
    b"; filename*=UTF-8''%C3%BC",
    b'"',
    b"\r\n\r\n",
]
_FALLBACK = WebUrl("https", "example.com", 443, "/dir/file")
_IDLE = 60
#: Bytes of a body that is accepted.
_MOST = 4096


def one(data: bytes) -> None:
    """Request a URL, and answer with what follows it."""
    text, answer = fields(data, 1)
    url = _parsed(text.decode("utf-8", "surrogateescape")) or _FALLBACK
    clock, endpoint = Clock(), Endpoint()
    request = h11.Request(method="GET", target=url.target, headers=[("Host", url.authority)])
    limits = FetchLimits(idle=_IDLE, body=_MOST)
    exchange = GuardedExchange(clock, request, url=url, check_peer=lambda _: None, limits=limits)
    ends: list[object] = []
    receiving = Deferred.fromCoroutine(_receive(exchange, url))
    receiving.addBoth(ends.append)
    endpoint.connect(_Factory(exchange))
    for piece in pieces(answer):
        exchange.dataReceived(piece)
    if exchange.connected:
        reason = ConnectionLost() if len(answer) % 2 else ConnectionDone()
        exchange.connectionLost(Failure(reason))
    clock.advance(_IDLE)
    if clock.getDelayedCalls():
        raise Finding(f"something is still waiting: {clock.getDelayedCalls()}")
    _check(ends)


class _Factory:
    def __init__(self, exchange: GuardedExchange) -> None:
        self._exchange = exchange

    def buildProtocol(self, _: object) -> GuardedExchange:
        return self._exchange


async def _receive(exchange: GuardedExchange, url: WebUrl) -> int:
    answer = exchange
    await answer.head
    _parsed(answer.header("location"), url)
    for name in (disposition_name(answer.header("content-disposition")), url.last_segment):
        _check_name(plain_name(name))
    blocks, size = BodyBlocks(answer), 0
    while block := await blocks.next():
        size += len(block)
    answer.close()
    if size > _MOST or (answer.length is not None and size != answer.length):
        raise Finding(f"{size} bytes were received, and {answer.length} announced")
    return size


def _parsed(text: str, base: WebUrl | None = None) -> WebUrl | None:
    try:
        url = WebUrl.parse(text) if base is None else base.joined(text)
    except UrlInvalid as error:
        if not error.message.isprintable():
            raise Finding(f"this cannot be shown to anybody: {error.message!r}") from error
        return None
    form = str(url)
    if not (form.isascii() and form.isprintable() and " " not in form):
        raise Finding(f"{form!r} cannot be sent")
    if WebUrl.parse(form) != url:
        raise Finding(f"{form!r} has another form")
    return url


def _check_name(name: str) -> None:
    if "/" in name or "\0" in name or name in (".", ".."):
        raise Finding(f"{name!r} is no name")
    name.encode()


def _check(ends: list[object]) -> None:
    if len(ends) != 1:
        raise Finding(f"the download ended {len(ends)} times")
    (end,) = ends
    if isinstance(end, Failure):
        if not isinstance(end.value, DownloadFailed | ConnectionDone | ConnectionLost):
            end.raiseException()
        if not str(end.value).isprintable():
            raise Finding(f"this cannot be shown to anybody: {end.value}")


def seeds() -> Iterator[bytes]:
    """Yield files, redirects and names."""
    ok = b"\0HTTP/1.1 200 OK\r\n"
    yield b"http://example.com/a.zip" + ok + b"Content-Length: 4\r\n\r\nbody"
    yield b"https://[2001:db8::1]:8443/a%20b?c#d" + ok + b"\r\nbody"
    yield b"http://b\xc3\xbccher.example/" + ok + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield b"http://0x7f.1/\0HTTP/1.1 302 Found\r\nLocation: //127.1/\\a\r\n\r\n"
    yield (
        b"http://example.com/x"
        + ok
        + b'Content-Disposition: attachment; filename="a\\"b"; filename*=UTF-8\'\'%C3%BC\r\n'
        + b"Content-Length: 9\r\n\r\nshort"
    )
    yield b"http://u:p@example.com\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404 No\r\n\r\n"
