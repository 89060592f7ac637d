"""What a browser may see and do, with plain values."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.websocket.tokens import KEY, UUID, console_token
from wingsd.auth.tokens import EXPIRED, DenyList
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import EnvironmentFailed
from wingsd.websocket.messages import Message
from wingsd.websocket.session import (
    ChangePower,
    Close,
    Command,
    MessageRateLimits,
    SendLogs,
    Session,
    SetTransmission,
    Step,
)

pytestmark = pytest.mark.promise("console-needs-a-token")

OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
DENIED = "jwt: created too far in past (denylist)"
SUCCESS = Message("auth success")


class LastTransfer:
    """The server's last transfer: it has taken the server away or not, and `state` is its end."""

    def __init__(self) -> None:
        self.moved = False
        self.state = ""
        self.hearers: set[str] = set()
        self.asked: list[float] = []

    def has_moved(self, server: str) -> bool:
        return self.moved

    def heard(self, server: str) -> set[str]:
        return self.hearers

    def missed(self, server: str, issued: float, *, is_here: bool) -> str:
        self.asked.append(issued)
        return self.state


class _Server:
    pending_restart = True

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    @property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace(value=self._talk.state)

    @property
    def disowned(self) -> bool:
        return self._talk.transfer.moved

    def stats(self) -> str:
        return "{}"


class Talk:
    """A browser's session, at a time that the test sets; messages are far enough apart."""

    def __init__(self, state: str = "running") -> None:
        # PyJWT has a clock of its own, so the talk begins now.
        self.begin = self.now = float(int(time.time()))
        self.denied = DenyList(booted=self.begin - 1000)
        self.clock = Clock()
        self.state = state
        self.transfer = LastTransfer()
        self.session = self.connect()

    def connect(self, *, has_left: bool = False, family: str = PTERODACTYL) -> Session:
        server: Any = None if has_left else _Server(self)
        transfers: Any = self.transfer
        limits = MessageRateLimits(self.clock.seconds)
        self.session = Session(UUID, KEY, family, self.denied, limits, server, transfers)
        return self.session

    def token(self, *permissions: str, **claims: Any) -> str:
        return console_token(self.begin, *permissions, **claims)

    def send(self, event: str, *args: str | None) -> list[Step]:
        self.now += 6
        self.clock.advance(6)
        payload = json.dumps({"event": event, "args": args}).encode()
        return self.session.receive(payload, self.now)

    def auth(self, *permissions: str, **claims: Any) -> list[Step]:
        return self.send("auth", self.token(*permissions, **claims))

    def event(self, name: str, *args: str) -> list[Step]:
        return self.session.event(name, args, self.now)

    def look(self, after: float = 30) -> list[Step]:
        self.now += after
        return self.session.check(self.now)


def authenticated(*permissions: str, **claims: Any) -> Talk:
    talk = Talk()
    assert talk.auth(*permissions, **claims)[0] == SUCCESS
    return talk


def error(steps: list[Step], event: str = "daemon error") -> str:
    (message,) = steps
    assert isinstance(message, Message)
    assert message.event == event
    return message.args[0]


def test_a_good_token_is_answered_with_the_servers_state() -> None:
    assert Talk("starting").auth() == [SUCCESS, Message("status", ("starting",))]


def test_of_a_stopped_server_the_stats_come_too() -> None:
    stats = Message("stats", ("{}",))
    assert Talk("offline").auth() == [SUCCESS, Message("status", ("offline",)), stats]


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": 1000}, EXPIRED),
        ({"iat": 1000}, DENIED),
        ({"server_uuid": OTHER}, "jwt: server uuid mismatch"),
        ({"permissions": ["control.console"]}, "jwt: missing connect permission"),
        ({"server_uuid": "x"}, "not the UUID of a server"),
    ],
)
def test_a_bad_token_is_refused_in_words(claims: dict[str, Any], words: str) -> None:
    talk = Talk()
    assert words in error(talk.auth(**claims), "jwt error")
    assert talk.event("status", "running") == []


@pytest.mark.parametrize("permissions", [("*",), ("admin.websocket.errors",)])
@pytest.mark.parametrize(
    ("family", "steps"),
    [(PTERODACTYL, []), (PELICAN, [Close(4409, "server is suspended")]), (CALAGOPUS, [])],
)
def test_a_suspension_is_no_message_and_closes_with_pelican(
    permissions: tuple[str], family: str, steps: list[Step]
) -> None:
    talk = Talk()
    talk.connect(family=family)
    assert talk.event("suspended") == steps
    assert talk.auth(*permissions)[0] == SUCCESS
    assert talk.event("suspended") == steps


def test_what_calagopus_page_asks_for_is_answered() -> None:
    talk = authenticated()
    assert talk.send("ping", "17") == [Message("pong", ("17",))]
    assert talk.send("send status") == [Message("status", ("running",))]
    configure = ("configure socket", "transmission mode")
    assert talk.send(*configure, "binary") == [SetTransmission(binary=True)]
    assert talk.send(*configure, "text") == [SetTransmission(binary=False)]
    assert talk.send(*configure, "pigeon") == talk.send("configure socket", "x") == []


def test_reading_the_console_is_a_permission_of_calagopus_panel() -> None:
    line = [Message("console output", ("secret",))]
    assert authenticated().event("console output", "secret") == line
    talk = authenticated("meta.calagopus", "backups.read")
    for event in ("console output", "daemon message", "feature match"):
        assert talk.event(event, "secret") == []
    assert talk.send("send logs") == []
    assert talk.event("backup completed:x", "{}") == [Message("backup completed:x", ("{}",))]
    for permission in ("control.read-console", "*"):
        talk = authenticated("meta.calagopus", permission)
        assert talk.event("console output", "secret") == line
        assert talk.send("send logs") == [SendLogs(transfer=False)]


def test_only_calagopus_page_is_told_of_a_pending_restart() -> None:
    stats, pending = Message("stats", ("{}",)), Message("pending restart", ("true",))
    talk = authenticated("meta.calagopus", "control.read-console")
    assert talk.send("send stats") == [stats, pending]
    assert talk.event("pending restart", "false") == [Message("pending restart", ("false",))]
    assert authenticated("*").send("send stats") == [stats]
    assert authenticated("*").event("pending restart", "false") == []


def test_progress_is_for_calagopus_page_and_that_of_transfers_for_administrators() -> None:
    talk = authenticated("meta.calagopus", "*")
    for event, seen in (
        ("image pull progress", True),
        ("image pull completed", True),
        ("transfer progress", False),
    ):
        assert talk.event(event, "x", "{}") == [Message(event, ("x", "{}"))] * seen
        assert authenticated("*", "admin.websocket.transfer").event(event, "x") == []
    talk = authenticated("meta.calagopus", "admin.websocket.transfer")
    assert talk.event("transfer progress", "{}") == [Message("transfer progress", ("{}",))]


def test_who_may_not_read_the_console_is_told_so_when_connecting() -> None:
    talk = Talk()
    why = error(talk.auth("meta.calagopus")[2:], "daemon message")
    assert "missing the `control.read-console` permission" in why
    assert talk.auth("meta.calagopus") == [SUCCESS]
    status = Message("status", ("running",))
    assert Talk().auth("meta.calagopus", "control.read-console") == [SUCCESS, status]


def test_what_is_no_token_is_refused() -> None:
    assert "cannot be read" in error(Talk().send("auth", "nonsense"), "jwt error")
    assert "cannot be read" in error(Talk().send("auth"), "jwt error")
    assert "cannot be read" in error(Talk().send("auth", "\ud800"), "jwt error")


@pytest.mark.parametrize("event", ["set state", "send command", "send logs", "send stats", "?"])
def test_without_a_token_nothing_is_done(event: str) -> None:
    assert error(Talk().send(event, "start"), "jwt error") == "jwt: no jwt present"


def test_everything_is_done_for_one_who_may_do_everything() -> None:
    talk = authenticated("*")
    assert talk.send("set state", "start") == [ChangePower("start", "user")]
    assert talk.send("set state", "restart") == [ChangePower("restart", "user")]
    assert talk.send("send command", "say ", "hello") == [Command("say hello", "user")]
    assert talk.send("send logs", None) == [SendLogs()]
    assert talk.send("send stats", None) == [Message("stats", ("{}",))]


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("start", "control.start"),
        ("stop", "control.stop"),
        ("kill", "control.stop"),
        ("restart", "control.restart"),
    ],
)
def test_each_action_needs_its_permission_and_no_other(action: str, permission: str) -> None:
    assert authenticated(permission).send("set state", action) == [ChangePower(action, "user")]
    others = {"control.start", "control.stop", "control.restart", "control.console"} - {permission}
    assert permission in error(authenticated(*others).send("set state", action))


def test_a_command_needs_its_permission() -> None:
    assert authenticated("control.console").send("send command", "x") == [Command("x", "user")]
    assert "control.console" in error(authenticated("control.start").send("send command", "x"))


def test_an_unknown_event_or_action_is_an_error() -> None:
    talk = authenticated("*")
    assert "start, stop, restart, kill" in error(talk.send("set state", "explode"))
    assert "'dance'" in error(talk.send("dance"))
    assert "not JSON" in error(talk.session.receive(b"{", talk.now))


@pytest.mark.parametrize(
    ("event", "permission"),
    [
        ("transfer logs", "admin.websocket.transfer"),
        ("install output", "admin.websocket.install"),
        ("backup completed:8d2f5a14", "backup.read"),
    ],
)
def test_some_events_are_not_for_all(event: str, permission: str) -> None:
    shown = [Message(event, ("x",))]
    assert authenticated(permission).event(event, "x") == shown
    assert authenticated("control.start").event(event, "x") == []
    assert authenticated("*").event(event, "x") == ([] if "admin" in permission else shown)


@pytest.mark.parametrize(
    "event",
    [
        "status",
        "console output",
        "daemon message",
        "backup restore completed",
    ],
)
def test_other_events_are_sent_to_every_watcher(event: str) -> None:
    assert Talk().event(event, "x") == []
    assert authenticated().event(event, "x") == [Message(event, ("x",))]


def test_a_deleted_server_closes_every_connection() -> None:
    (close,) = Talk().event("deleted")
    assert isinstance(close, Close)
    assert close.code == 1001
    assert authenticated().event("deleted") == [Message("deleted"), close]


def test_an_ending_token_is_reported_before_and_after() -> None:
    talk = authenticated(exp=Talk().begin + 100)
    assert talk.look(20) == []
    assert talk.look() == [Message("token expiring")]
    assert talk.look() == []
    assert talk.look() == [Message("token expired")]
    assert talk.look() == [Message("token expired")]


def test_after_its_end_nothing_is_seen_or_done_until_there_is_another() -> None:
    talk = authenticated("*", exp=Talk().begin + 100)
    talk.now += 200
    assert talk.event("console output", "secret") == [Message("token expired")]
    assert talk.event("console output", "secret") == []
    assert error(talk.send("send command", "x"), "jwt error") == EXPIRED
    talk.state = "stopping"
    assert talk.auth("*") == [SUCCESS, Message("status", ("stopping",))]
    assert talk.event("console output", "x") == [Message("console output", ("x",))]
    assert talk.send("send command", "x") == [Command("x", "user")]


def test_a_denied_token_is_reported_once_and_ends() -> None:
    talk = authenticated("*")
    talk.denied.deny(["j"], talk.now)
    assert talk.event("status", "offline") == [Message("jwt error", (DENIED,))]
    assert talk.event("status", "running") == []
    assert talk.look() == []
    assert error(talk.send("set state", "start"), "jwt error") == DENIED
    assert error(talk.auth("*"), "jwt error") == DENIED


def test_a_later_token_of_the_same_user_is_good_again() -> None:
    talk = authenticated()
    talk.denied.deny(["j"], talk.now)
    assert talk.event("status", "offline") == [Message("jwt error", (DENIED,))]
    later = talk.now + 1
    talk.denied.deny(["j"], later)
    assert talk.auth(iat=later)[0] == SUCCESS


def test_one_that_missed_the_end_of_a_transfer_is_sent_it_after_the_state() -> None:
    talk = Talk()
    talk.transfer.state = "failed"
    assert talk.auth() == [
        SUCCESS,
        Message("status", ("running",)),
        Message("transfer status", ("failed",)),
    ]
    assert talk.auth() == [SUCCESS]
    assert talk.transfer.asked == [talk.begin]


@pytest.mark.promise("pages-follow-a-transfer")
@pytest.mark.parametrize(
    ("family", "again"),
    [
        (PTERODACTYL, [Message("install completed", ("",))]),
        (PELICAN, [Message("install completed", ("",))]),
        # Its page would show a failed installation, and keeps its WebSocket on `failed`.
        (CALAGOPUS, []),
    ],
)
def test_a_page_that_was_sent_a_failure_is_not_made_to_connect_again(
    family: str, again: list[Message]
) -> None:
    talk = Talk()
    talk.transfer.state = "failed"
    state = [SUCCESS, Message("status", ("running",))]
    talk.connect(family=family)
    assert talk.auth() == [*state, Message("transfer status", ("failed",))]
    talk.connect(family=family)
    assert talk.auth() == [*state, *again]


@pytest.mark.promise("pages-follow-a-transfer")
@pytest.mark.parametrize(("family", "sent"), [(PTERODACTYL, 1), (PELICAN, 1), (CALAGOPUS, 0)])
def test_a_page_asks_again_when_the_panel_knows_of_a_failure(family: str, sent: int) -> None:
    talk = Talk()
    talk.connect(family=family)
    assert talk.event("transfer reported") == []
    talk.auth()
    assert talk.event("transfer reported") == [Message("install completed", ("",))] * sent


def test_a_page_that_heard_a_failure_live_is_not_sent_it_again() -> None:
    talk = authenticated()
    for word in ("starting", "success"):
        talk.event("transfer status", word)
    assert talk.transfer.hearers == set()
    talk.event("transfer status", "failed")
    talk.transfer.state = "failed"
    talk.connect()
    assert Message("transfer status", ("failed",)) not in talk.auth()


def test_the_lines_of_a_transfer_are_for_those_who_may_see_them() -> None:
    assert authenticated("*").send("send logs", None) == [SendLogs(transfer=False)]
    administrator = authenticated("admin.websocket.transfer")
    assert administrator.send("send logs", None) == [SendLogs(transfer=True)]


@pytest.mark.promise("pages-follow-a-transfer")
def test_of_a_server_that_has_left_only_the_end_of_its_transfer_is_sent() -> None:
    talk = Talk()
    talk.transfer.state = "completed"
    talk.connect(has_left=True)
    assert talk.auth("*") == [SUCCESS, Message("transfer status", ("completed",))]
    assert talk.event("console output", "secret") == []
    assert talk.send("send logs", None) == []
    assert talk.send("send stats", None) == []
    for event, text in (("set state", "start"), ("set state", "kill"), ("send command", "x")):
        assert "moved to another node: reload" in error(talk.send(event, text))


def test_a_browser_of_a_server_that_has_left_is_sent_away_soon() -> None:
    talk = Talk()
    talk.connect(has_left=True)
    assert talk.auth() == [SUCCESS]
    assert talk.look() == [Close(1001, "the server is not on this node any more")]


@pytest.mark.promise("pages-follow-a-transfer")
def test_one_whose_token_is_still_on_its_way_when_the_server_leaves_is_sent_the_end() -> None:
    talk = Talk()
    talk.transfer.moved, talk.transfer.state = True, "completed"
    assert talk.event("deleted") == []
    assert talk.auth("*") == [SUCCESS, Message("transfer status", ("completed",))]
    assert "moved to another node" in error(talk.send("set state", "start"))


def test_one_that_saw_the_end_is_closed_when_the_server_leaves() -> None:
    talk = authenticated()
    talk.transfer.moved = True
    deleted, close = talk.event("deleted")
    assert deleted == Message("deleted")
    assert isinstance(close, Close)


def test_a_connection_without_a_token_is_closed() -> None:
    talk = Talk()
    assert talk.look() == []
    (close,) = talk.look()
    assert isinstance(close, Close)
    assert close.code == 1008


def test_a_flood_is_thrown_away_with_one_word_about_it() -> None:
    talk = authenticated("*")
    payload = json.dumps({"event": "send command", "args": ["x"]}).encode()
    talk.clock.advance(60)
    answers = [talk.session.receive(payload, talk.now) for _ in range(100)]
    assert answers[:10] == [[Command("x", "user")]] * 10
    assert [answer for answer in answers[10:] if answer] == [[Message("throttled", ("global",))]]
    assert talk.send("send command", "x") == [Command("x", "user")]


def test_failures_in_full_go_to_administrators_alone() -> None:
    failure = EnvironmentFailed("no such image: secret/image")
    assert authenticated("*").session.failure(failure).args == (failure.message, failure.code)
    administrator = authenticated("admin.websocket.errors").session
    assert administrator.failure(failure).args == (str(failure), failure.code)
    unforeseen = KeyError("secret")
    (text, _) = authenticated("*").session.failure(unforeseen).args
    assert text == "an unexpected error was encountered while handling this request"
    assert administrator.failure(unforeseen).args[0] == "KeyError: 'secret'"
