"""The Panel's API as the node calls it, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as NoConnection
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.panel.client_harness import UNKNOWN, UUID, Harness
from tests.support import Answer, Call, Drop, Node, server_settings
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from tests.support.recording_observer import RecordingObserver
from tests.transfers.peers import Peer, read_head
from wingsd import __version__
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, Config
from wingsd.errors import (
    NodeTokenRefused,
    PanelError,
    PanelRefused,
    PanelUnreachable,
    ServerNotAssigned,
    ServerNotFound,
)
from wingsd.panel import client as panel_module
from wingsd.panel.client import MAX_BODY, MAX_VALUES, BackupRecordState, BoundedClient, Panel
from wingsd.util.observer import PANEL, Observer


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
    others = harness.add_servers(3, **ANSWERS[answers])
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
    others = harness.add_servers(5)
    client = harness.client()
    assert await client.owns(others[4])
    asked = [f"/api/remote/servers?page={page}&per_page=2" for page in (1, 2, 3)]
    assert [call.path for call in harness.fake.calls] == asked
    assert not await client.owns(UUID)


@pytest.mark.promise("paged-list-hides-no-server")
async def test_a_server_that_leaves_between_two_pages_hides_no_other(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = harness.add_servers(5)
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


async def test_an_unassigned_server_is_no_refused_token(harness: Harness) -> None:
    with pytest.raises(ServerNotAssigned):
        await harness.client().describe(UUID)
    with pytest.raises(PanelRefused) as caught:
        await harness.client().installed(UUID, successful=True)
    assert not isinstance(caught.value, NodeTokenRefused)


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


# Answers of the Panel that are not as they should be, and requests that are repeated


FAULTS = [
    Answer(500),
    Answer(502, b"<html>Bad gateway</html>", "text/html"),
    Answer(200, b"<html>We are updating</html>", "text/html"),
    Answer(200, b'{"data": 5}'),
    Answer(500, b"[" * 100_000),
    Answer(302, b""),
    Drop(carried_out=True),
]


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("fault", FAULTS)
async def test_an_invalid_answer_is_retried(harness: Harness, fault: Any) -> None:
    harness.fake.inject("/servers", fault, times=2)
    assert not await harness.client().owns(UUID)
    assert len(harness.fake.calls) == 3


async def test_a_panel_whose_answers_are_past_a_bound_is_named_with_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "GIVE_UP_AFTER", 0)
    harness.fake.inject("/servers", Answer(200, b" " * (MAX_BODY + 1)))
    with pytest.raises(PanelUnreachable) as caught:
        await harness.client().owns(UUID)
    assert caught.value.detail == (
        f"GET {harness.fake.url}/api/remote/servers?page=1&per_page=2: its answer is longer than "
        "16 MiB; see whether remote in the configuration is the Panel's address, and what a "
        "proxy in front of it sends; try again when it answers"
    )


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("status", [200, 500])
async def test_json_of_more_values_than_its_bound_is_not_decoded(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(panel_module, "GIVE_UP_AFTER", 0)
    values = b"[],{}," * (MAX_VALUES // 4)
    body = b'{"data": [], "errors": [{"detail": "why"}], "x": [%s1]}' % values
    harness.fake.inject("/servers", Answer(status, body))
    says = {200: "its answer has more than 2,000,000 values", 500: "it answered 500: no reason"}
    with pytest.raises(PanelUnreachable, match=says[status]):
        await harness.client().owns(UUID)


async def test_a_request_that_came_too_early_is_repeated_if_that_is_soon(harness: Harness) -> None:
    harness.fake.inject("/servers", Answer(429))
    assert not await harness.client().owns(UUID)
    assert len(harness.fake.calls) == 2
    harness.fake.inject("/servers", Answer(429, retry_after="90"))
    with pytest.raises(PanelError) as caught:
        await harness.client().owns(UUID)
    assert caught.value.retry_after == 90
    assert len(harness.fake.calls) == 3


async def test_an_answer_about_another_server_is_not_believed(harness: Harness) -> None:
    harness.fake.open_transfer(UUID, harness.here)
    harness.fake.settings_of(UUID)["uuid"] = UNKNOWN
    with pytest.raises(PanelUnreachable, match="the Panel's answer is invalid"):
        await harness.client().describe(UUID)


@pytest.mark.promise("dropped-backups-are-kept-for-days")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, BackupRecordState.MISSING),
        (Answer(409, b'{"errors": [{"detail": "completed"}]}'), BackupRecordState.THERE),
        (Answer(409, b"<html>Conflict</html>", "text/html"), BackupRecordState.UNKNOWN),
        (Answer(404, b"<html>Not Found</html>", "text/html"), BackupRecordState.UNKNOWN),
        (Answer(404, b'{"error": "no such route"}'), BackupRecordState.UNKNOWN),
        (Answer(400, b'{"errors": [{"detail": "not S3"}]}'), BackupRecordState.UNKNOWN),
        (Answer(403, b'{"errors": [{"detail": "of another node"}]}'), BackupRecordState.UNKNOWN),
        (Answer(401, b'{"errors": [{"detail": "no token"}]}'), BackupRecordState.UNKNOWN),
        (Answer(200, b'{"parts": []}'), BackupRecordState.UNKNOWN),
    ],
)
async def test_only_the_panels_own_404_and_409_say_whether_it_has_a_backup(
    harness: Harness, answer: Any, expected: BackupRecordState
) -> None:
    if answer is not None:
        harness.fake.inject("/backups", answer)
    assert await harness.client().backup_record(UNKNOWN) is expected


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize(
    ("body", "why", "is_own"),
    [
        (b'{"errors": [{"detail": "wrong"}, {"detail": "and late"}]}', "wrong; and late", True),
        (b'{"errors": ["user not found"]}', "user not found", True),  # Calagopus
        (b'{"errors": [1]}', "no reason given", False),
        (b"<html>Not Found</html>", "no reason given", False),
    ],
)
async def test_a_refusal_has_the_reason_and_whether_it_is_the_panels_own(
    harness: Harness, body: bytes, why: str, is_own: bool
) -> None:
    harness.fake.inject("/sftp/auth", Answer(404, body))
    with pytest.raises(PanelRefused) as caught:
        await harness.client().sftp_access({})
    assert str(caught.value).endswith(f"was answered 404: {why}")
    assert caught.value.is_own is is_own


# How long the Panel is waited for, by a clock, and what is observed of it


class DeadHttp:
    """An HTTP client whose requests all end the same way."""

    def __init__(self, outcome: Any) -> None:
        self.requests: list[Call] = []
        self._outcome = outcome

    def request(self, method: str, url: str, **_: Any) -> Deferred[Any]:
        self.requests.append(Call(method, url, None))
        return self._outcome()  # type: ignore[no-any-return]


def dead_panel(outcome: Any, observer: Observer | None = None) -> tuple[Panel, DeadHttp, Clock]:
    node = Node("")
    config = Config(token_id=node.token_id, token=node.token, remote="http://panel.invalid")
    http, clock = DeadHttp(outcome), Clock()
    return Panel(config, clock, http, observer), http, clock  # type: ignore[arg-type]


def test_the_pauses_grow_and_end_after_half_a_minute() -> None:
    panel, http, clock = dead_panel(lambda: fail(NoConnection()))
    outcome = Deferred.fromCoroutine(panel.owns(UUID))
    pauses = []
    while not outcome.called:
        (call,) = clock.getDelayedCalls()
        pauses.append(round(call.getTime() - clock.seconds(), 2))
        clock.advance(call.getTime() - clock.seconds())
    assert pauses == [0.5, 0.75, 1.12, 1.69, 2.53, 3.8, 5.7, 8.54]
    assert len(http.requests) == 9
    errors: list[Failure] = []
    outcome.addErrback(errors.append)
    assert errors[0].check(PanelUnreachable)
    assert "panel.invalid" in errors[0].getErrorMessage()


@pytest.mark.parametrize(
    ("ask", "seconds"),
    [(lambda panel: panel.owns(UUID), 30), (lambda panel: panel.transfer_succeeded(UUID), 120)],
)
def test_an_answer_is_waited_for(ask: Any, seconds: float) -> None:
    panel, http, clock = dead_panel(Deferred)
    outcome = Deferred.fromCoroutine(ask(panel))
    clock.advance(seconds - 0.1)
    assert not outcome.called
    clock.advance(0.2)
    errors: list[Failure] = []
    outcome.addErrback(errors.append)
    assert f"no answer within {seconds} s" in errors[0].getErrorMessage()
    assert errors[0].check(PanelUnreachable)
    assert len(http.requests) == 1
    assert clock.getDelayedCalls() == []


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n "])
async def test_an_answer_that_drips_has_no_more_time_than_any(begun: bytes) -> None:
    begins: Deferred[None] = Deferred()

    def drip(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(begun)
        reactor.callFromThread(begins.callback, None)
        try:
            return connection.recv(100)  # until the client closes
        except ConnectionResetError:
            return b""

    peer = Peer(drip)
    clock: Any = Clock()  # the client makes no connections of its own
    config = Config(remote=f"http://127.0.0.1:{peer.port}", token_id="x", token="y")
    outcome = Deferred.fromCoroutine(Panel(config, clock, BoundedClient(reactor)).owns(UUID))
    await begins
    clock.advance(29)
    assert not outcome.called
    clock.advance(2)
    with pytest.raises(PanelUnreachable, match="no answer within 30 s"):
        await outcome
    assert await peer.outcome == b""
    assert clock.getDelayedCalls() == []


async def test_each_attempt_is_reported_to_the_observer(harness: Harness) -> None:
    heard = RecordingObserver()
    harness.fake.inject("/servers", Answer(502), times=1)
    panel = harness.client(observer=heard)
    assert not await panel.owns(UUID)
    with pytest.raises(PanelRefused) as caught:
        await panel.transfer_succeeded(UUID)
    (failed, again, refused) = heard.calls
    assert failed[:2] == again[:2] == (PANEL, "list")
    assert isinstance(failed[3], ValueError)
    assert again[3] is None
    assert (*refused[:2], refused[3]) == (PANEL, "success", caught.value)
    assert all(0 <= seconds < 5 for _, _, seconds, _ in heard.calls)
