"""The tools of the tests do what they say."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
import trustme
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tests.support.docker_engine import LOCK, Engine
from tests.support.forked_process import ForkedProcess
from tests.support.http_proxy import GONE, HttpProxy
from tests.support.node_process import TIMEOUT, TWISTD
from tests.support.reactor import reactor, until
from tests.support.sample_server import archive


def test_a_test_holds_the_lock_of_the_engine(engine: Engine) -> None:
    assert engine.client.ping()
    with LOCK.open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# The archive of the server that most tests transfer


def test_an_archive_is_the_same_in_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is made twice, once to be sent and once for its checksum, both must agree."""
    monkeypatch.setattr("time.time", count(1_700_000_000).__next__)
    assert archive() == archive()


# Commands of the tests and benchmarks that are stopped by a signal


# A shell has what it runs in the background ignore SIGINT, and so would this.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from twisted.internet import reactor
from twisted.internet.task import deferLater
from tests.support.running import run_command

async def command():
    try:
        print("begun", flush=True)
        await deferLater(reactor, 3600)
    finally:
        await deferLater(reactor, 0)
        print("cleaned up", flush=True)

run_command(command)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_by_a_signal_cleans_up(number: int) -> None:
    command = [sys.executable, "-c", COMMAND]
    home = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        os.kill(running.pid, number)
        out, err = running.communicate()
    assert (out, err, running.returncode) == ("cleaned up\n", "stopped by a signal\n", 1)


# Tests for `tests.support.forked_process`


#: A service of Twisted's that runs until it is killed.
SERVICE = [TWISTD, "-n", "--pidfile", "", "portforward", "--port", "tcp:0:interface=127.0.0.1"]


async def test_daemons_that_die_at_the_same_time_are_all_noticed(tmp_path: Path) -> None:
    ends: list[Deferred[int]] = []
    daemons = []
    for _ in range(12):
        ended: Deferred[int] = Deferred()
        ends.append(ended)
        daemons.append(
            ForkedProcess(SERVICE, os.environ, tmp_path, lambda _: None, ended.callback)
        )
    for daemon in daemons:
        daemon.signalProcess("KILL")
    assert set(await gatherResults(ends).addTimeout(TIMEOUT, reactor)) == {-9}


async def test_a_signal_to_a_daemon_whose_end_is_not_noticed_yet_is_refused(
    tmp_path: Path,
) -> None:
    ended: Deferred[int] = Deferred()
    daemon = ForkedProcess(SERVICE, os.environ, tmp_path, lambda _: None, ended.callback)
    daemon.signalProcess("KILL")
    while Path(f"/proc/{daemon.pid}").exists():  # until the template has reaped it
        time.sleep(0.001)
    with pytest.raises(ProcessExitedAlready):
        daemon.signalProcess("KILL")
    assert await ended.addTimeout(TIMEOUT, reactor) == -9


# The proxy of the tests passes on, limits, times out and drops headers as it says


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
    port: Any = reactor.listenSSL(0, Site(Node()), options, interface="127.0.0.1")
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
