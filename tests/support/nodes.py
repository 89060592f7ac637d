"""The fake Panel's calls to its nodes, over real sockets and with the node's own token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS

from tests.support.state import Node

# Seconds. A Panel gives 5 and 15, which may be too few on a loaded machine.
_CONNECT_WITHIN = 60
_ANSWER_WITHIN = 60

# Twisted's own logs two lines for each connection.
_QuietFactory: Any = type("_QuietFactory", (HTTPConnectionPool._factory,), {"noisy": False})


class NodeError(Exception):
    """A node did not do what it was asked: it refused, or gave no answer (`status` 0).

    `body` is its JSON, or a text that says what happened instead.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}" if status else str(body))
        self.status = status
        self.body = body


def _policy(node: Node) -> IPolicyForHTTPS:
    if not node.ca:
        return BrowserLikePolicyForHTTPS()
    authority = Certificate.loadPEM(Path(node.ca).read_bytes())
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates([authority]))


def _client(node: Node, reactor: Any) -> HTTPClient:
    pool = HTTPConnectionPool(reactor, persistent=False)
    pool._factory = _QuietFactory
    return HTTPClient(Agent(reactor, _policy(node), connectTimeout=_CONNECT_WITHIN, pool=pool))


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode("utf-8", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, TooLate):
        return f"no answer within {_ANSWER_WITHIN} s"
    # Twisted packs what befell a connection into lists, one in the other.
    causes = [_reason(reason.value) for reason in getattr(error, "reasons", [])]
    return "; ".join(causes) or str(error) or type(error).__name__


async def _exchange(
    reactor: Any, node: Node, method: str, path: str, body: Any
) -> tuple[int, Any]:
    headers = Headers(
        {
            "Authorization": [f"Bearer {node.token}"],
            "Accept": ["application/json"],
            "Content-Type": ["application/json"],
        }
    )
    data = None if body is None else json.dumps(body).encode()
    url = f"{node.address}{path}"
    answer = await _client(node, reactor).request(method, url, headers=headers, data=data)
    return answer.code, _decoded(await answer.content())


async def ask(
    reactor: Any, node: Node, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """Return a node's answer, whatever it is: status, and body (decoded when it is JSON).

    Raises `NodeError` after a minute without one.
    """
    asking = Deferred.fromCoroutine(_exchange(reactor, node, method, path, body))
    try:
        return await asking.addTimeout(_ANSWER_WITHIN, reactor)
    except CancelledError:
        raise
    except Exception as error:
        raise NodeError(0, f"{node.address} does not answer: {_reason(error)}") from error
