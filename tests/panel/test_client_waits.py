"""How long the Panel is waited for, by a clock, and what is observed of it."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionRefusedError as NoConnection
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.panel.client_harness import UUID, Harness
from tests.support import Answer, Call, Hang, Node
from tests.support.reactor import reactor
from tests.support.recording_observer import RecordingObserver
from tests.transfers.peers import Peer, read_head
from wingsd.config import Config
from wingsd.errors import PanelRefused, PanelUnreachable
from wingsd.panel.client import BoundedClient, Panel
from wingsd.util.observer import PANEL, Observer


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


async def test_a_real_request_that_is_cancelled_is_over_at_once(harness: Harness) -> None:
    harness.fake.inject("/servers", Hang(), times=5)
    outcome = Deferred.fromCoroutine(harness.client().owns(UUID))
    await harness.fake.called("/servers")
    outcome.cancel()
    with pytest.raises(CancelledError):
        await outcome
    assert len(harness.fake.calls) == 1


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n "])
@pytest.mark.parametrize("ask", [lambda panel: panel.owns(UUID), lambda panel: panel.greet()])
async def test_an_answer_that_drips_has_no_more_time_than_any(ask: Any, begun: bytes) -> None:
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
    outcome = Deferred.fromCoroutine(ask(Panel(config, clock, BoundedClient(reactor))))
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


def test_the_pauses_between_attempts_are_not_the_panels_time() -> None:
    heard = RecordingObserver()
    panel, _, clock = dead_panel(Deferred, heard)
    outcome = Deferred.fromCoroutine(panel.owns(UUID))
    outcome.addErrback(lambda failure: failure.trap(PanelUnreachable))
    for _ in range(100):
        clock.advance(1)
    ((peer, operation, seconds, error),) = heard.calls
    assert (peer, operation, seconds) == (PANEL, "list", 30)
    assert isinstance(error, TimeoutError)


def test_a_cancelled_call_is_observed() -> None:
    heard = RecordingObserver()
    panel, _, clock = dead_panel(Deferred, heard)
    outcome = Deferred.fromCoroutine(panel.owns(UUID))
    clock.advance(7)
    outcome.cancel()
    outcome.addErrback(lambda failure: failure.trap(CancelledError))
    ((_, _, seconds, error),) = heard.calls
    assert seconds == 7
    assert isinstance(error, CancelledError)
