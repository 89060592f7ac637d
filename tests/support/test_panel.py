"""The fake Panel, asked over real sockets as a node would ask it."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterator
from typing import Any

import jwt
import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.web.client import HTTPConnectionPool, ResponseNeverReceived

from tests.support import (
    Call,
    Hang,
    Node,
    Panel,
    SynchronousWorkers,
    process_configuration,
    server_settings,
)
from tests.support.reactor import reactor

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
SERVERS = "/api/remote/servers"
SUCCESS = f"{SERVERS}/{UUID}/transfer/success"
FAILURE = f"{SERVERS}/{UUID}/transfer/failure"


class Harness:
    """A listening Panel with a server on its way from one node to another."""

    def __init__(self, pool: HTTPConnectionPool) -> None:
        self.panel = Panel()
        self.source = self.panel.add_node("https://source.invalid:8080")
        self.destination = self.panel.add_node(
            "https://destination.invalid:8080", ip="127.0.0.2", port=30000
        )
        self.panel.add_server(server_settings(UUID, port=25565), self.source)
        self.panel.open_transfer(UUID, self.destination)
        self._pool = pool

    async def ask(
        self, method: str, path: str, node: Node | None = None, body: Any = None, **kwargs: Any
    ) -> tuple[int, Any]:
        node = node or self.destination
        kwargs.setdefault("headers", {"Authorization": f"Bearer {node.token_id}.{node.token}"})
        data = None if body is None else json.dumps(body).encode()
        url = self.panel.url + path
        answer = await treq.request(method, url, data=data, pool=self._pool, **kwargs)
        text = await answer.content()
        return answer.code, json.loads(text) if text.startswith(b"{") else text


@pytest.fixture
def harness() -> Iterator[Harness]:
    pool = HTTPConnectionPool(reactor, persistent=False)
    harness = Harness(pool)
    pytest_twisted.blockon(Deferred.fromCoroutine(harness.panel.listen(reactor)))
    yield harness
    pytest_twisted.blockon(Deferred.fromCoroutine(harness.panel.close()))


def start(work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


async def test_a_server_is_described_as_php_does(harness: Harness) -> None:
    code, answer = await harness.ask("GET", f"{SERVERS}/{UUID}")
    assert code == 200
    assert set(answer) == {"settings", "process_configuration"}
    assert answer["settings"]["labels"] == []
    assert answer["settings"]["build"]["threads"] is None
    assert harness.panel.calls == [("GET", f"{SERVERS}/{UUID}", None)]


async def test_success_moves_the_server_and_its_allocation(harness: Harness) -> None:
    assert await harness.ask("POST", SUCCESS) == (204, b"")
    assert harness.panel.node_of(UUID) == harness.destination
    assert not harness.panel.in_transfer(UUID)
    allocations = harness.panel.settings_of(UUID)["allocations"]
    assert allocations["default"] == {"ip": "127.0.0.2", "port": 30000}
    assert allocations["mappings"] == {"127.0.0.2": [30000]}
    assert harness.panel.reports() == [(UUID, "success")]


async def test_failure_closes_the_transfer_and_moves_nothing(harness: Harness) -> None:
    assert await harness.ask("POST", FAILURE, harness.source) == (204, b"")
    assert harness.panel.node_of(UUID) == harness.source
    code, answer = await harness.ask("POST", FAILURE)
    assert code == 409
    (error,) = answer["errors"]
    assert error["status"] == "409"
    assert set(error) == {"code", "status", "detail"}


async def test_only_the_destination_reports_success(harness: Harness) -> None:
    code, _ = await harness.ask("POST", SUCCESS, harness.source)
    assert code == 403
    assert harness.panel.in_transfer(UUID)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer nothing"}, 401),
        ({"Authorization": "Basic a.b"}, 401),
        ({"Authorization": "Bearer some.thing"}, 403),
    ],
)
async def test_credentials_needed(harness: Harness, headers: dict[str, str], status: int) -> None:
    code, answer = await harness.ask("GET", SERVERS, headers=headers)
    assert code == status
    assert answer["errors"][0]["status"] == str(status)


async def test_install_and_reset(harness: Harness) -> None:
    report = {"successful": True, "reinstall": False}
    path = f"{SERVERS}/{UUID}/install"
    assert (await harness.ask("POST", path, harness.source, report))[0] == 204
    assert harness.panel.installed(UUID) is True
    assert (await harness.ask("POST", path, harness.source))[0] == 422
    assert (await harness.ask("POST", path, harness.destination, report))[0] == 403
    assert (await harness.ask("POST", f"{SERVERS}/reset"))[0] == 204
    assert harness.panel.calls[0] == Call("POST", path, report)


def activity(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "user": None,
        "server": UUID,
        "event": "server:power.start",
        "metadata": {},
        "ip": "192.0.2.1",
        "timestamp": "2026-11-27T08:00:00Z",
    }
    return usual | changes


async def test_one_bad_entry_has_the_whole_activity_refused(harness: Harness) -> None:
    path, good = "/api/remote/activity", activity()
    bad: list[dict[str, Any]] = [
        {"metadata": None},
        {"metadata": []},
        {"ip": "192.0.2.1:80"},
        {"ip": "fe80::1%eth0"},
        {"user": "me"},
        {"timestamp": "yesterday"},
    ]
    for changes in bad:
        body = {"data": [good, activity(**changes)]}
        assert (await harness.ask("POST", path, harness.source, body))[0] == 422
    assert harness.panel.activity == []
    body = {"data": [good, activity(event="other"), activity(server=OTHER)]}
    assert await harness.ask("POST", path, harness.source, body) == (204, b"")
    assert harness.panel.activity == [good]


async def test_only_the_servers_node_reports_its_state(harness: Harness) -> None:
    path = f"{SERVERS}/{UUID}/container/status"
    body = {"data": {"previous_state": "offline", "new_state": "starting"}}
    assert (await harness.ask("POST", path, harness.destination, body))[0] == 403
    assert (await harness.ask("POST", path, harness.source, {}))[0] == 422
    assert (await harness.ask("POST", path, harness.source, body))[0] == 204
    assert harness.panel.statuses == [(UUID, "offline", "starting")]


async def test_a_call_that_does_not_come_is_an_error_that_names_it(harness: Harness) -> None:
    await harness.ask("GET", SERVERS)
    with pytest.raises(TimeoutError, match=rf"not 1 calls of /success .*{SERVERS}"):
        await harness.panel.called("/success", within=0)


async def test_close_cuts_what_hangs(harness: Harness) -> None:
    harness.panel.inject("/success", Hang())
    asking = start(harness.ask("POST", SUCCESS))
    await harness.panel.called("/success")
    await harness.panel.close()
    with pytest.raises(ResponseNeverReceived):
        await asking


def test_the_token_is_the_one_of_a_transfer() -> None:
    panel = Panel()
    node = panel.add_node("https://node.invalid:8080")
    token = panel.transfer_token(UUID, node, now=1_000_000)
    claims = jwt.decode(token, node.token, ["HS256"], options={"verify_signature": False})
    assert len(claims.pop("unique_id")) == 16
    jti = claims["jti"]
    assert claims == {
        "iss": panel.url,
        "aud": ["https://node.invalid:8080"],
        "sub": UUID,
        "jti": jti,
        "iat": 1_000_000,
        "nbf": 1_000_000 - 300,
        "exp": 1_000_000 + 900,
    }
    assert len(jti) == 64
    assert jwt.get_unverified_header(token) == {
        "alg": "HS256",
        "typ": "JWT",
        "jti": jti,
        "sub": UUID,
    }


def test_a_token_can_be_made_wrong() -> None:
    panel = Panel()
    node = panel.add_node("https://node.invalid:8080")
    token = panel.transfer_token(UUID, node, algorithm="none", key="", sub=OTHER, exp=None)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == OTHER
    assert "exp" not in claims


def test_the_token_of_a_browser_is_for_the_node_the_server_is_on() -> None:
    panel = Panel()
    node = panel.add_node("https://node.invalid:8080")
    panel.add_server(server_settings(UUID), node)
    token = panel.console_token(UUID, ["websocket.connect"], user=OTHER, now=1_000_000, nbf=None)
    claims = jwt.decode(token, node.token, ["HS256"], options={"verify_signature": False})
    assert len(claims.pop("unique_id")) == 16
    assert len(claims.pop("jti")) == 32
    assert claims == {
        "iss": panel.url,
        "aud": ["https://node.invalid:8080"],
        "user_uuid": OTHER,
        "server_uuid": UUID,
        "permissions": ["websocket.connect"],
        "iat": 1_000_000,
        "exp": 1_000_000 + 600,
    }


def test_another_key_or_node_can_sign_for_a_browser() -> None:
    panel = Panel()
    node = panel.add_node("https://node.invalid:8080")
    other = panel.add_node("https://other.invalid:8080")
    panel.add_server(server_settings(UUID), node)
    for token, key in [
        (panel.console_token(UUID, node=other), other.token),
        (panel.console_token(UUID, key="k" * 32), "k" * 32),
    ]:
        claims = jwt.decode(token, key, ["HS256"], options={"verify_aud": False})
        assert claims["permissions"] == ["*"]


def test_an_eggs_files_name_the_servers_own_values() -> None:
    def replaced(text: str) -> dict[str, Any]:
        return {"match": "x", "replace_with": text}

    panel = Panel()
    node = panel.add_node("https://node.invalid:8080")
    target = panel.add_node("https://target.invalid:8080", ip="127.0.0.3", port=30003)
    texts = [
        "{{server.build.default.ip}}:{{server.build.default.port}}",
        "{{env.SERVER_PORT}} {{server.build.memory}} {{server.build.env.MODE}} {{env.MODE}}",
        "{{config.docker.interface}}{{server.nothing}}{{else}}",
    ]
    entries = [replaced(text) for text in texts] + [{"match": "y", "replace_with": True}]
    configs = [{"file": "a.conf", "parser": "file", "replace": entries}]
    settings = server_settings(UUID, port=25565, environment={"MODE": "hard"})
    panel.add_server(settings, node, process_configuration(configs=configs))

    def resolved() -> list[Any]:
        (file,) = panel.describe(node, UUID)["process_configuration"]["configs"]
        return [entry["replace_with"] for entry in file["replace"]]

    rest = ["{{config.docker.interface}}{{else}}", True]
    assert resolved() == ["127.0.0.1:25565", "25565 512 hard hard", *rest]
    panel.open_transfer(UUID, target)
    panel.finish_transfer(target, UUID, "success")
    assert resolved() == ["127.0.0.3:30003", "30003 512 hard hard", *rest]


def test_synchronous_workers_work_at_once() -> None:
    workers = SynchronousWorkers()
    workers.start()
    results: list[int] = []
    workers.run(lambda a, b: a - b, 5, b=3).addCallback(results.append)
    failures: list[Any] = []
    workers.run(int, "no number").addErrback(failures.append)
    workers.stop()
    assert results == [2]
    failures[0].trap(ValueError)
