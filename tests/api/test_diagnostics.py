"""The diagnostics of a node."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.api.node import TOKEN, ApiNode
from wingsd import __version__
from wingsd.config import DockerConfig, Registry
from wingsd.docker.runtime import RunningContainer
from wingsd.errors import EngineUnavailable
from wingsd.node import diagnostics
from wingsd.node.logs import LogUnavailable

LINES = [
    f"the Panel sent {TOKEN}",
    "the Panel at https://panel.example.com is not reachable",
    "the registry refuses hunter2hunter2",
]


class FakeEngine:
    """An engine with one container, or with nothing to say."""

    def __init__(self, fault: Exception | None = None) -> None:
        self._fault = fault

    async def report(self, patience: float) -> dict[str, Any]:
        if self._fault is not None:
            raise self._fault
        return {
            "ServerVersion": "28.0.1",
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"]],
            "Warnings": ["WARNING: No swap limit support"],
        }

    async def containers(self, patience: float) -> list[RunningContainer]:
        if self._fault is not None:
            raise self._fault
        return [RunningContainer("0123456789ab", "a-server", "yolks:java_21", "Up 3 hours")]


def made(engine: FakeEngine | None = None) -> ApiNode:
    node = ApiNode()
    registries = {"ghcr.io": Registry("someone", "hunter2hunter2")}
    node.config = attrs.evolve(node.config, docker=DockerConfig(registries=registries))
    node.node_engine = engine or FakeEngine()
    node.log_source = lambda lines: LINES[-lines:]
    node.start()
    return node


async def report(node: ApiNode, query: str = "") -> str:
    reply = await node.call("GET", f"diagnostics{query}")
    await node.close()
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    return reply.text


async def test_the_report_has_all_parts_and_no_secret() -> None:
    text = await report(made())
    assert text.startswith("wingsd - Diagnostics Report\n")
    for part in (__version__, "28.0.1", "Backing Filesystem: extfs", "No swap limit support"):
        assert part in text
    assert "0123456789ab" in text
    assert "a-server" in text
    assert "system.data: /var/lib/pterodactyl/volumes" in text
    assert "the Panel at https://{redacted} is not reachable" in text
    for secret in (TOKEN, "hunter2hunter2", "panel.example.com", "ghcr.io"):
        assert secret not in text


async def test_endpoints_are_shown_where_they_are_asked_for() -> None:
    text = await report(made(), "?include_endpoints=true")
    assert "remote: https://panel.example.com" in text
    assert TOKEN not in text
    assert "hunter2hunter2" not in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?log_lines=1", LINES[-1:]),
        ("?log_lines=99999999999999999999", LINES),
        ("?log_lines=0", []),
        ("?include_logs=false", []),
        ("?include_logs=0", []),
    ],
)
async def test_the_log_is_as_long_as_asked_for(query: str, expected: list[str]) -> None:
    text = await report(made(), query)
    assert [line for line in LINES if line.split()[-2] in text.partition("Latest Logs")[2]] == (
        expected
    )


@pytest.mark.parametrize(
    "query",
    [
        "log_lines=many",
        "log_lines=-1",
        "log_lines=%C2%B2",
        "include_logs=2",
        "include_endpoints=a",
    ],
)
async def test_nonsense_in_the_query_is_400(query: str) -> None:
    node = made()
    reply = await node.call("GET", f"diagnostics?{query}")
    await node.close()
    assert (reply.status, reply.json["code"]) == (400, "bad-request")
    assert query.partition("=")[0] in reply.json["error"]


async def test_what_fails_is_replaced_by_its_reason() -> None:
    def broken(_: int) -> list[str]:
        raise LogUnavailable("journalctl: no permission")

    node = made(FakeEngine(EngineUnavailable("the engine has gone")))
    node.log_source = None
    await node.close()
    node.log_source = broken
    node.start()
    text = await report(node)
    assert text.count("the engine has gone") == 2
    assert "not available: journalctl: no permission" in text
    assert "system.data: " in text


async def test_a_log_that_is_not_read_in_time_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diagnostics, "PATIENCE", 0.01)
    monkeypatch.setattr(diagnostics.OwnLog, "_read", lambda _: Deferred())
    assert "not read within" in await report(made())
