"""`GET /metrics` behind its own door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import create_server
from typing import Any

import pytest
import requests
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread

from tests.metrics.exposed import Samples, exposition, told
from tests.support.logged_errors import Logged
from wingsd.app.daemon import MetricsListener
from wingsd.config import Config, Metrics

reactor: Any = installed_reactor


def door(address: str, exposed: Any = None) -> MetricsListener:
    config = Config(
        token_id="id", token="x", remote="https://panel.invalid", metrics=Metrics(address)
    )
    exposed = exposed or exposition(told())
    return MetricsListener(config, exposed if address else None, reactor)


class Asked:
    def __init__(self, opened: MetricsListener) -> None:
        assert opened._listener is not None
        self.url = opened._listener.address
        self._session = requests.Session()
        # No proxy: where packages are built one is named that leads nowhere.
        self._session.trust_env = False

    async def ask(self, path: str, method: str = "GET", **headers: str) -> requests.Response:
        url = self.url + path
        return await deferToThread(self._session.request, method, url, headers=headers, timeout=60)


@asynccontextmanager
async def opened(address: str, exposed: Any = None) -> AsyncIterator[Asked]:
    made = door(address, exposed)
    made.open()
    try:
        yield Asked(made)
    finally:
        await made.close()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_prometheus_reads_it_without_a_token(address: str) -> None:
    async with opened(address) as asked:
        response = await asked.ask("/metrics")
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = Samples(response.text)
        assert found.get("wingsd_transfers_total", direction="in", outcome="success") == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/", 404), ("GET", "/x", 404)],
)
async def test_other_paths_are_a_404(method: str, path: str, status: int) -> None:
    async with opened("127.0.0.1:0") as asked:
        response = await asked.ask(path, method)
        assert response.status_code == status
        assert method == "HEAD" or status == 200 or response.json()["error"]


class Broken:
    async def render(self, accept: str) -> tuple[bytes, str]:
        raise RuntimeError("a mistake")


async def test_an_internal_error_is_a_500(logged: Logged) -> None:
    async with opened("127.0.0.1:0", Broken()) as asked:
        response = await asked.ask("/metrics")
        assert response.status_code == 500
        assert response.json()["code"] == "internal-error"
    assert len(logged.take(RuntimeError)) == 1


def test_a_used_address_fails_with_one_line() -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"cannot listen on tcp:{port}:interface=127.0.0.1"):
            door(f"127.0.0.1:{port}").open()
