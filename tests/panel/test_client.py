"""The Panel's API as the node calls it, over real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.panel.client_harness import UNKNOWN, UUID, Harness
from tests.support import Answer, Drop, server_settings
from tests.support.logged_errors import Logged
from wingsd import __version__
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import (
    NodeTokenRefused,
    PanelError,
    PanelRefused,
    PanelUnreachable,
    ServerNotAssigned,
    ServerNotFound,
)
from wingsd.panel.client import Panel


async def test_a_server_is_described(harness: Harness) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    server = (await harness.client().describe(UUID)).settings
    assert (server.uuid, server.container.image) == (UUID, "~busybox")


async def test_the_headers_are_the_panels(harness: Harness) -> None:
    await harness.client().owns(UUID)
    headers = harness.fake.headers[0]
    assert headers["authorization"] == f"Bearer {harness.here.token_id}.{harness.here.token}"
    assert headers["accept"] == "application/vnd.pterodactyl.v1+json"
    assert headers["content-type"] == "application/json"


@pytest.mark.promise("version-suits-the-panel")
@pytest.mark.parametrize(
    ("family", "name"),
    [
        (PTERODACTYL, "Pterodactyl Wings"),
        (PELICAN, "Pelican Wings"),
        (CALAGOPUS, "calagopus wings"),
    ],
)
async def test_a_panel_is_called_in_the_name_of_its_familys_daemon(
    harness: Harness, family: str, name: str
) -> None:
    await harness.client(family=family).owns(UUID)
    agent = f"{name}/v{__version__} (id:{harness.here.token_id})"
    assert harness.fake.headers[0]["user-agent"] == agent


#: What each family's Panel says of a server, and no other's.
ANSWERS: dict[str, dict[str, Any]] = {
    PTERODACTYL: {},
    PELICAN: {"id": 1, "build": {"memory_limit": 1, "oom_killer": True}},
    CALAGOPUS: {"build": {"memory_limit": 1, "oom_disabled": False}, "schedules": []},
}


@pytest.mark.promise("wrong-family-is-logged")
@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("family", ANSWERS)
async def test_a_panel_of_another_family_is_logged_once(
    harness: Harness, logged: Logged, family: str, answers: str
) -> None:
    others = [f"00000000-0000-4000-8000-{number:012}" for number in range(3)]
    for uuid in others:
        harness.fake.add_server(server_settings(uuid, **ANSWERS[answers]), harness.here)
    client = harness.client(family=family)
    assert len(await client.servers()) == 3
    await client.describe(others[0])
    lines = [line for line in logged.lines if "family" in line]
    if family == answers:
        assert lines == []
    else:
        (line,) = lines
        assert f"`family: {answers}`" in line


async def test_an_answer_of_no_known_family_is_taken_as_it_is(
    harness: Harness, logged: Logged
) -> None:
    harness.fake.add_server(server_settings(UNKNOWN, build={"memory_limit": 1}), harness.here)
    assert len(await harness.client(family=CALAGOPUS).servers()) == 1
    assert not [line for line in logged.lines if "family" in line]


@pytest.mark.parametrize("uuid", [UNKNOWN, UUID])
async def test_a_server_it_does_not_know_for_us_is_unknown(harness: Harness, uuid: str) -> None:
    with pytest.raises(ServerNotFound):
        await harness.client().describe(uuid)


async def test_every_page_is_asked_for_whose_a_server_is(harness: Harness) -> None:
    others = [f"00000000-0000-4000-8000-{number:012}" for number in range(5)]
    for other in others:
        harness.fake.add_server(server_settings(other), harness.here)
    client = harness.client()
    assert await client.owns(others[4])
    asked = [f"/api/remote/servers?page={page}&per_page=2" for page in (1, 2, 3)]
    assert [call.path for call in harness.fake.calls] == asked
    assert not await client.owns(UUID)


@pytest.mark.promise("paged-list-hides-no-server")
async def test_a_server_that_leaves_between_two_pages_hides_no_other(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [f"00000000-0000-4000-8000-{number:012}" for number in range(5)]
    for other in others:
        harness.fake.add_server(server_settings(other), harness.here)
    client = harness.client()
    pages, is_gone = client._pages, False

    async def pages_while_one_leaves() -> AsyncIterator[tuple[Any, ...]]:
        nonlocal is_gone
        async for page in pages():
            yield page
            if not is_gone:
                harness.fake.remove_server(others[0])
            is_gone = True

    monkeypatch.setattr(client, "_pages", pages_while_one_leaves)
    assert await client.owns(others[2])


async def test_the_outcome_is_reported(harness: Harness) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    await harness.client().transfer_succeeded(UUID)
    assert harness.fake.node_of(UUID) == harness.here
    harness.fake.open_transfer(UUID, harness.there)
    await harness.client().transfer_failed(UUID)
    assert harness.fake.reports() == [(UUID, "success"), (UUID, "failure")]


@pytest.mark.parametrize(
    ("backups", "body"), [(None, None), ((), {"backups": []}), ((UUID,), {"backups": [UUID]})]
)
async def test_backups_are_reported_if_asked_for(
    harness: Harness, backups: tuple[str, ...] | None, body: object
) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    await harness.client().transfer_succeeded(UUID, backups)
    assert harness.fake.calls[-1].body == body


async def test_a_second_failure_is_no_error_but_a_second_success_is(harness: Harness) -> None:
    await harness.client().transfer_failed(UUID)
    with pytest.raises(PanelRefused) as caught:
        await harness.client().transfer_succeeded(UUID)
    assert caught.value.response_status == 409
    assert "No transfer of that server is open." in caught.value.detail


CALLS: list[Callable[[Panel], Awaitable[object]]] = [
    lambda panel: panel.describe(UUID),
    lambda panel: panel.owns(UUID),
    lambda panel: panel.servers(),
    lambda panel: panel.greet(),
    lambda panel: panel.reset(),
    lambda panel: panel.installed(UUID, successful=True),
    lambda panel: panel.transfer_succeeded(UUID),
    lambda panel: panel.transfer_failed(UUID),
]
ACTIVITY: dict[str, Any] = {
    "user": None,
    "server": UUID,
    "event": "server:power.start",
    "metadata": {},
    "ip": None,
    "timestamp": "2026-11-27T08:00:00Z",
}


@pytest.mark.promise("wrong-node-token-changes-nothing")
@pytest.mark.parametrize("ask", CALLS)
async def test_each_call_with_a_wrong_token_is_refused(harness: Harness, ask: Any) -> None:
    with pytest.raises(NodeTokenRefused) as caught:
        await ask(harness.client(token="x"))
    assert (caught.value.status, caught.value.response_status) == (503, 403)
    assert str(caught.value).startswith(
        "the Panel does not accept this node's token: copy the node's configuration from the "
        "Panel again, then restart this node; "
    )
    assert "No node has these credentials." in caught.value.detail


@pytest.mark.parametrize("ask", CALLS)
async def test_each_401_is_a_refused_node_token(harness: Harness, ask: Any) -> None:
    harness.fake.inject("/servers", Answer(401))
    with pytest.raises(NodeTokenRefused):
        await ask(harness.client())
    assert len(harness.fake.calls) == 1


async def test_an_unassigned_server_is_no_refused_token(harness: Harness) -> None:
    with pytest.raises(ServerNotAssigned):
        await harness.client().describe(UUID)
    with pytest.raises(PanelRefused) as caught:
        await harness.client().installed(UUID, successful=True)
    assert not isinstance(caught.value, NodeTokenRefused)


async def test_a_refusal_is_undecided_while_the_panel_is_down(harness: Harness) -> None:
    # Its `Retry-After` is longer than any call is repeated for.
    harness.fake.inject("/servers?", Answer(503, retry_after="90"))
    with pytest.raises(PanelUnreachable):
        await harness.client().describe(UUID)


async def test_it_is_known_when_it_last_answered(harness: Harness) -> None:
    client = harness.client()
    assert (client.heard, client.date) == (None, None)
    await client.greet()
    assert client.heard is not None
    assert abs(client.heard - time.time()) < 30
    # By its own clock, which is this one here.
    assert client.date is not None
    assert abs(client.date - time.time()) < 30


@pytest.mark.promise("activity-is-repeated")
@pytest.mark.parametrize(
    ("answer", "kind", "seconds"),
    [
        (Answer(301), PanelUnreachable, 0.0),
        (Answer(500), PanelUnreachable, 0.0),
        (Answer(503, retry_after="7"), PanelUnreachable, 7.0),
        (Answer(200, b"<html>"), PanelUnreachable, 0.0),
        (Drop(), PanelUnreachable, 0.0),
        (Answer(429, retry_after="7"), PanelRefused, 7.0),
        (Answer(413, b"<html>"), PanelRefused, 0.0),
        (Answer(401), NodeTokenRefused, 0.0),
    ],
)
async def test_a_call_that_is_made_once_fails_with_the_reason(
    harness: Harness, answer: Any, kind: type[PanelError], seconds: float
) -> None:
    client, body = harness.client(), {"data": [ACTIVITY]}
    harness.fake.add_server(server_settings(UUID), harness.here)
    harness.fake.inject("/activity", answer)
    with pytest.raises(kind) as caught:
        await client.post_once("activity", "/activity", body)
    assert type(caught.value) is kind
    assert caught.value.retry_after == seconds
    assert len(harness.fake.calls) == 1
    await client.post_once("activity", "/activity", body)
    assert harness.fake.activity == [ACTIVITY]


async def test_a_greeting_is_tried_once_and_may_fail(harness: Harness) -> None:
    harness.fake.inject("/servers", Answer(503))
    with pytest.raises(PanelUnreachable, match="it answered 503"):
        await harness.client().greet()
    assert len(harness.fake.calls) == 1
    with pytest.raises(PanelRefused):
        await harness.client(token="another").greet()
    client = harness.client()
    await harness.fake.close()
    with pytest.raises(PanelUnreachable, match="refused"):
        await client.greet()
    assert client.heard is None
