"""Logins and sessions of SFTP as the daemon decides on them, with its servers in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.servers.harness import UUID, FakeNode, Outcome, configuration
from tests.support.logged_errors import Logged
from tests.support.recording_observer import RecordedActivity
from tests.support.sftp_users import WRONG
from wingsd.auth.tokens import DenyList, user_key
from wingsd.config import SftpActivityConfig, SftpConfig, SftpLimits
from wingsd.errors import InvalidData, NodeTokenRefused, PanelRefused, PanelUnreachable
from wingsd.events import SUSPENDED, Event
from wingsd.panel.schemas import SftpAccess
from wingsd.servers.operations import Hold, Operation
from wingsd.sftp import logins
from wingsd.sftp.logins import GrantedLogin, LoginTries, SftpLogins
from wingsd.sftp.messages import (
    Begun,
    Disconnect,
    FileEvent,
    Granted,
    Login,
    Rejected,
    ServerState,
    SftpMessage,
)
from wingsd.sftp.sessions import SftpSessions

USER = "3f1f0f0e-6f8e-4b43-9a55-0d6b3b1f3a11"
NAME = f"anna.{UUID[:8]}"
IP = "192.0.2.7"


class FakePanel:
    """A Panel: what it answers to a login, or raises."""

    def __init__(self) -> None:
        self.answer: SftpAccess | Exception = SftpAccess(USER, UUID, ("*",))
        self.asked: list[dict[str, Any]] = []

    async def sftp_access(self, login: dict[str, Any]) -> SftpAccess:
        self.asked.append(login)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def refusal(status: int, text: str = WRONG) -> PanelRefused:
    why = f"POST /sftp/auth was answered {status}: {text}"
    return PanelRefused("the Panel refused this node's request", why, status)


class SftpNode:
    """A node with one server, its logins and sessions; `sent` went to the SFTP process."""

    def __init__(self, directory: Path, family: str, sftp: SftpConfig) -> None:
        self.node = FakeNode(directory, sftp=sftp)
        self.config = attrs.evolve(self.node.config, family=family)
        self.server = self.node.server(configuration(disk_space=1))
        self.panel = FakePanel()
        self.denied = DenyList(0)
        self.now = 1000.0
        self.activity = RecordedActivity(UUID)
        self.sent: list[SftpMessage] = []
        clock = self.node.clock
        self.logins = SftpLogins(
            self.config,
            self.panel,  # type: ignore[arg-type]  # for one call
            self.node.servers,
            self.denied,
            clock.seconds,
            lambda: self.now,
        )
        self.sessions = SftpSessions(
            self.config,
            self.node.servers,
            self.logins,
            self.activity,
            self.node.bus,
            clock,
        )
        self.sessions.send = self.sent.append

    def login(
        self, given: str = "right", name: str = NAME, kind: str = "password", number: int = 1
    ) -> GrantedLogin | Rejected:
        login = Login(number, number, kind, name, given, IP, 50_000, "SSH-2.0-x")
        answer: GrantedLogin | Rejected = Outcome.of(self.logins.check(login)).value()
        return answer

    def connect(self, number: int = 1, given: str = "right") -> None:
        granted = self.login(given, number=number)
        assert isinstance(granted, GrantedLogin)
        self.sessions.grant(granted)
        self.sessions.begin(number, number)

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.node.clock.advance(1)

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    def closed(self) -> list[int]:
        return [message.connection for message in self.of(Disconnect)]


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SftpNode]:
    """A node; a test can give its family and settings as `made`'s parameter."""
    family, sftp = getattr(request, "param", ("pterodactyl", SftpConfig()))
    node = SftpNode(tmp_path, family, sftp)
    yield node
    node.sessions.all_ended()
    node.node.close()


CALAGOPUS = pytest.mark.parametrize("made", [("calagopus", SftpConfig())], indirect=True)


def test_the_panel_is_asked_in_wings_form(made: SftpNode) -> None:
    assert isinstance(made.login("ssh-ed25519 AAAA", kind="public_key"), GrantedLogin)
    (asked,) = made.panel.asked
    assert {key: asked[key] for key in ("type", "username", "password", "ip")} == {
        "type": "public_key",
        "username": NAME,
        "password": "ssh-ed25519 AAAA",
        "ip": f"{IP}:50000",
    }
    assert asked["client_version"] == "U1NILTIuMC14"


@pytest.mark.parametrize(
    ("ip", "told"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7:50000"),
        ("2001:db8::7", "[2001:db8::7]:50000"),
        ("fe80::7%eth0", "[fe80::7]:50000"),
    ],
)
def test_the_panel_gets_an_address_that_it_can_read(made: SftpNode, ip: str, told: str) -> None:
    login = Login(1, 1, "password", NAME, "right", ip, 50_000)
    Outcome.of(made.logins.check(login)).value()
    assert made.panel.asked[0]["ip"] == told


def test_logins_of_connections_that_are_gone_are_forgotten(made: SftpNode) -> None:
    for number in range(500):
        granted = made.login(number=number)
        assert isinstance(granted, GrantedLogin)
        made.sessions.grant(granted)
    assert len(made.sessions._granted) <= 128


@pytest.mark.parametrize(
    "name", ["anna", "anna.5b0c7a6", "anna.5b0c7a6-", ".5b0c7a6e", "a.5b0c7a6e "]
)
def test_a_user_name_without_a_server_is_refused_without_the_panel(
    made: SftpNode, name: str
) -> None:
    assert isinstance(made.login(name=name), Rejected)
    assert made.panel.asked == []


@pytest.mark.parametrize("name", ["a.b@c.example.8D2F5A14", f"anna.{UUID[:8]}"])
def test_a_user_name_may_have_dots_and_any_case(made: SftpNode, name: str) -> None:
    assert isinstance(made.login(name=name), GrantedLogin)


@pytest.mark.promise("sftp-logins-are-limited")
def test_a_wrong_password_is_asked_once_in_ten_seconds_and_then_blocks(made: SftpNode) -> None:
    made.panel.answer = refusal(403)
    for _ in range(5):
        assert isinstance(made.login("wrong"), Rejected)
    assert len(made.panel.asked) == 1
    for number in range(20):
        made.login(f"wrong {number}")
    assert len(made.panel.asked) == 6
    final = made.login("right")
    assert isinstance(final, Rejected)
    assert final.final
    made.panel.answer = SftpAccess(USER, UUID, ("*",))
    made.node.clock.advance(61)
    assert isinstance(made.login("right"), GrantedLogin)


@pytest.mark.promise("sftp-logins-are-limited")
@pytest.mark.parametrize("kind", ["password", "public_key"])
@pytest.mark.parametrize(
    "answer",
    [
        refusal(403, "You do not have permission to access SFTP for this server."),
        refusal(403, "no reason given"),
        refusal(401, "no reason given"),
        refusal(404, "no reason given"),
        refusal(409, "This server is currently suspended"),
        refusal(429, "Too many login attempts for this account"),
        PanelUnreachable("no", "no"),
        SftpAccess(USER, "99999999-6e2b-4c43-9d57-0c4c5e1c7f10", ("*",)),
        SftpAccess(USER, "nonsense", ("*",)),
    ],
    ids=["permission", "proxy", "token", "server", "suspended", "throttled", *"abc"],
)
def test_a_refusal_that_is_not_about_the_password_or_key_is_not_remembered(
    made: SftpNode, logged: Logged, answer: Exception | SftpAccess, kind: str
) -> None:
    made.panel.answer = answer
    for _ in range(20):
        assert isinstance(made.login("right", kind=kind), Rejected)
    assert len(made.panel.asked) == 20
    assert sum(f"with a {kind.replace('_', ' ')} refused" in line for line in logged.lines) == 20
    made.panel.answer = SftpAccess(USER, UUID, ("*",))
    assert isinstance(made.login("right", kind=kind), GrantedLogin)


@CALAGOPUS
@pytest.mark.parametrize("kind", ["password", "public_key"])
def test_what_calagopus_calls_wrong_is_remembered_and_a_missing_permission_is_not(
    made: SftpNode, kind: str
) -> None:
    made.panel.answer = SftpAccess(USER, UUID, ("files.read",))
    for _ in range(20):
        assert isinstance(made.login(kind=kind), Rejected)
    made.panel.answer = SftpAccess(USER, UUID, ("files.sftp",))
    assert isinstance(made.login(kind=kind), GrantedLogin)
    made.panel.asked.clear()
    made.panel.answer = refusal(417, "no reason given")
    for _ in range(5):
        assert isinstance(made.login("wrong", kind=kind), Rejected)
    assert len(made.panel.asked) == 1


def test_a_suspended_or_unknown_or_held_server_cannot_be_logged_in_to(made: SftpNode) -> None:
    made.server.configuration = configuration(suspended=True)
    assert isinstance(made.login("one"), Rejected)
    made.server.configuration = configuration()
    made.server.operations.hold = Hold(Operation.INSTALL, "it is being installed")
    assert isinstance(made.login("two"), Rejected)
    made.server.operations.hold = None
    made.panel.answer = SftpAccess(USER, "99999999-6e2b-4c43-9d57-0c4c5e1c7f10")
    assert isinstance(made.login("three"), Rejected)
    made.panel.answer = SftpAccess(USER, "nonsense")
    assert isinstance(made.login("four"), Rejected)


def test_access_that_was_revoked_while_the_panel_was_asked_is_refused(made: SftpNode) -> None:
    made.denied.deny((user_key(USER, UUID),), made.now + 1)
    assert isinstance(made.login("one"), Rejected)
    made.now += 2
    assert isinstance(made.login("two"), GrantedLogin)


def test_the_process_is_told_what_a_session_may_do_and_its_disk_limit_first(
    made: SftpNode,
) -> None:
    made.connect()
    state, granted, begun = made.sent
    assert isinstance(state, ServerState)
    assert isinstance(granted, Granted)
    assert isinstance(begun, Begun)
    assert (state.used, state.limit) == (0, 1 << 20)
    assert granted.directory == str(made.node.data / UUID)
    assert made.sessions.count == 1
    made.sessions.ended(1)
    assert made.sessions.count == 0


@pytest.mark.parametrize(
    "operation", [Operation.INSTALL, Operation.TRANSFER_OUT, Operation.DELETE]
)
def test_what_takes_the_server_closes_its_sessions(made: SftpNode, operation: Operation) -> None:
    made.connect()
    made.server.place_hold(operation, "it is taken")
    assert made.closed() == [1]
    # It is under way until the process has ended what it does.
    assert made.server.operations.runs(Operation.CHANGE_FILES)
    made.sessions.ended(1)
    assert not made.server.operations.runs(Operation.CHANGE_FILES)


def test_a_suspension_and_a_changed_access_close_sessions(made: SftpNode) -> None:
    made.connect(1)
    made.connect(2)
    made.node.bus.publish(Event("another", SUSPENDED))
    assert made.sessions.close_user("another", ()) == 0
    assert made.sessions.close_user(USER, ("another",)) == 0
    assert made.closed() == []
    assert made.sessions.close_user(USER, (UUID,)) == 2
    assert made.closed() == [1, 2]
    made.sessions.all_ended()
    made.connect(3)
    made.node.bus.publish(Event(UUID, SUSPENDED))
    assert made.closed() == [1, 2, 3]


def test_a_server_that_moved_away_without_an_event_is_found_within_a_second(
    made: SftpNode,
) -> None:
    made.connect()
    made.server.disown("it has moved")
    made.node.clock.advance(1)
    assert made.closed() == [1]


@pytest.mark.promise("sftp-access-ends-at-once")
def test_a_session_cannot_begin_with_a_login_that_has_become_void(made: SftpNode) -> None:
    granted = made.login()
    assert isinstance(granted, GrantedLogin)
    made.sessions.grant(granted)
    made.denied.deny((user_key(USER),), made.now + 1)
    made.sessions.begin(1, 1)
    made.sessions.begin(7, 7)
    assert made.closed() == [1, 7]
    assert made.sessions.count == 0


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize(
    "answer",
    [
        refusal(403),
        refusal(403, "You do not have permission to access SFTP for this server."),
        refusal(404, "server not found"),
        refusal(417, "user not found"),
        SftpAccess(USER, UUID, ("file.read",)),
        SftpAccess(USER, UUID, ("*",), ("/hidden",)),
    ],
)
def test_a_session_whose_access_has_ended_or_changed_is_closed_by_the_next_check(
    made: SftpNode, answer: SftpAccess | PanelRefused
) -> None:
    """No Panel says that a user's key was deleted, and older ones of no changed password."""
    made.connect()
    made.panel.answer = answer
    made.pass_time(299)
    assert (len(made.panel.asked), made.closed()) == (1, [])
    made.pass_time(1)
    assert made.closed() == [1]
    assert made.panel.asked[1]["password"] == made.panel.asked[0]["password"]


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize(
    "answer",
    [
        SftpAccess(USER.upper(), UUID, ("*",)),
        refusal(409, "This server is currently being transferred"),
        refusal(429, "Too many login attempts"),
        PanelRefused("refused", "a page of a proxy while the Panel is updated", 404, is_own=False),
        PanelRefused("refused", "a page of a firewall before it", 403, is_own=False),
        NodeTokenRefused("POST /sftp/auth was answered 401", 401),
        PanelUnreachable("the Panel gave no usable answer", "connection refused"),
    ],
)
def test_a_session_whose_access_is_as_before_or_not_known_goes_on(
    made: SftpNode, answer: SftpAccess | Exception
) -> None:
    made.connect()
    made.panel.answer = answer
    made.pass_time(600)
    assert (len(made.panel.asked), made.closed()) == (3, [])


def test_connections_with_the_same_login_are_checked_by_one_call(made: SftpNode) -> None:
    made.connect(1)
    made.connect(2)
    made.connect(3, given="another")
    made.panel.asked.clear()
    made.pass_time(300)
    assert [asked["password"] for asked in made.panel.asked] == ["right", "another"]
    made.panel.answer = SftpAccess(USER, UUID, ("file.read",))
    made.sessions.ended(1)
    made.connect(1)
    made.pass_time(300)
    assert made.closed() == [2, 3], "the login of 1 has the permissions of now"


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize("made", [("pterodactyl", SftpConfig(check_interval=0))], indirect=True)
def test_where_the_panel_says_that_some_access_has_ended_all_of_the_server_are_checked(
    made: SftpNode,
) -> None:
    """Pterodactyl's Panel names a token, and commits the change after the node's answer."""
    made.connect(1)
    made.connect(2, given="another")
    made.pass_time(1000)
    made.sessions.check_server("another")
    made.sessions.check_server(UUID)
    made.panel.asked.clear()
    made.pass_time(4)
    assert made.panel.asked == []
    made.panel.answer = refusal(403)
    made.pass_time(1)
    assert (len(made.panel.asked), made.closed()) == (2, [1, 2])


@pytest.mark.promise("sftp-access-ends-at-once")
@pytest.mark.parametrize("how", ["deleted", "suspended", "revoked"])
def test_access_that_ends_while_the_server_is_measured_at_a_login_is_refused(
    made: SftpNode, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring: Deferred[None] = Deferred()
    files = made.server.files
    files._usage.used = None
    monkeypatch.setattr(files, "measured", lambda: measuring)
    login = Login(1, 1, "password", NAME, "right", IP, 50_000, "SSH-2.0-x")
    answer = Outcome.of(made.logins.check(login))
    match how:
        case "deleted":
            Outcome.of(made.node.servers.delete(UUID)).value()
        case "suspended":
            made.server.configuration = configuration(suspended=True)
        case _:
            made.denied.deny((user_key(USER),), made.now + 1)
    measuring.callback(None)
    assert isinstance(answer.value(), Rejected)


TWO_OF = pytest.mark.parametrize(
    ("made", "why"),
    [
        (("pterodactyl", SftpConfig(limits=limits)), f"the {whose} has 2 connections already")
        for whose, limits in (
            ("user", SftpLimits(max_connections_per_user=2)),
            ("server", SftpLimits(max_connections_per_server=2)),
        )
    ],
    indirect=["made"],
    ids=["user", "server"],
)


@pytest.mark.promise("sftp-connection-limits-wait")
@TWO_OF
def test_a_connection_above_a_limit_waits_for_a_place(made: SftpNode, why: str) -> None:
    for number in (1, 2, 3, 4, 5):
        made.connect(number)
    assert [each.connection for each in made.of(Begun)] == [1, 2]
    assert made.sessions.count == 2
    made.sessions.ended(3)  # it has gone while it waited
    made.sessions.ended(1)
    assert [each.connection for each in made.of(Begun)] == [1, 2, 4]
    made.node.clock.advance(9)
    assert made.closed() == []
    made.node.clock.advance(1)
    assert made.closed() == [5]
    assert why in made.of(Disconnect)[0].why
    made.sessions.ended(5)
    made.sessions.ended(2)
    assert made.sessions.count == 1


@pytest.mark.promise("sftp-connection-limits-wait")
@TWO_OF
def test_those_of_one_user_that_wait_are_bounded(made: SftpNode, why: str) -> None:
    for number in range(40):
        made.connect(number)
    assert made.closed() == [34, 35, 36, 37, 38, 39]
    assert why in made.of(Disconnect)[0].why


def test_by_default_a_user_has_32_connections_and_a_server_64(made: SftpNode) -> None:
    for number in range(120):
        made.panel.answer = SftpAccess(f"{USER[:-1]}{number // 40}", UUID, ("*",))
        made.connect(number)
    assert made.sessions.count == 64
    assert [each.connection for each in made.of(Begun)] == [*range(32), *range(40, 72)]


def test_what_the_process_writes_counts_and_the_daemons_figure_corrects_it(
    made: SftpNode,
) -> None:
    made.connect()
    made.sessions.used(UUID, 700)
    made.sessions.used(UUID, 500)
    assert made.server.disk_bytes == 500
    made.server.files.add(100)
    made.node.clock.advance(1)
    last = made.of(ServerState)[-1]
    assert (last.acknowledged, last.used) == (500, 600)
    made.node.clock.advance(1)
    assert made.of(ServerState)[-1] is last
    made.sessions.used("unknown", 5)


@pytest.mark.parametrize(
    ("made", "renamed"),
    [
        (("pterodactyl", SftpConfig()), {"files": [{"from": "/a", "to": "/b"}]}),
        (("pelican", SftpConfig()), {"from": "/a", "to": "/b"}),
    ],
    indirect=["made"],
)
def test_what_users_do_is_recorded_in_the_familys_form(
    made: SftpNode, renamed: dict[str, Any]
) -> None:
    made.connect()
    for event in (
        FileEvent(1, "create", "/a"),
        FileEvent(1, "rename", "/a", "/b"),
        FileEvent(1, "read", "/b"),
        FileEvent(1, "nonsense", "/b"),
        FileEvent(9, "delete", "/b"),
    ):
        made.sessions.file_event(event)
    assert made.activity.entries == [
        ("server:sftp.create", {"files": ["/a"]}, USER, IP),
        ("server:sftp.rename", renamed, USER, IP),
    ]


@pytest.mark.parametrize(
    "made",
    [("calagopus", SftpConfig(activity=SftpActivityConfig(log_logins=True, log_file_reads=True)))],
    indirect=True,
)
def test_logins_and_downloads_are_recorded_where_that_is_set(made: SftpNode) -> None:
    made.connect()
    made.sessions.file_event(FileEvent(1, "read", "/b"))
    assert [entry[0] for entry in made.activity.entries] == [
        "server:sftp.login",
        "server:sftp.read",
    ]


@pytest.mark.promise("sftp-logins-are-limited")
def test_an_address_with_hundreds_of_wrong_keys_is_refused_without_the_panel(
    made: SftpNode,
) -> None:
    made.panel.answer = refusal(403)
    answers = [made.login(f"ssh-ed25519 {n}", kind="public_key") for n in range(250)]
    assert len(made.panel.asked) == 200
    assert [getattr(answer, "final", None) for answer in answers[198:202]] == [False] * 2 + [
        True
    ] * 2
    made.node.clock.advance(61)
    made.panel.answer = FakePanel().answer
    assert isinstance(made.login("ssh-ed25519 AAAA", kind="public_key"), GrantedLogin)


class SlowPanel:
    """Answers when `answered` fires."""

    def __init__(self, made: SftpNode) -> None:
        self._made = made
        self.answered: Deferred[None] = Deferred()
        made.panel.sftp_access = self.access  # type: ignore[method-assign]

    async def access(self, login: dict[str, Any]) -> SftpAccess:
        self._made.panel.asked.append(login)
        await self.answered
        if isinstance(self._made.panel.answer, Exception):
            raise self._made.panel.answer
        return self._made.panel.answer

    def check(self, number: int, ip: str) -> Outcome:
        login = Login(number, number, "password", NAME, f"a {number}", ip, 50_000)
        return Outcome.of(self._made.logins.check(login))


@pytest.mark.promise("sftp-logins-are-limited")
def test_one_address_does_not_take_the_turns_of_all_others(made: SftpNode) -> None:
    slow = SlowPanel(made)
    many = [slow.check(number, IP) for number in range(400)]
    assert len(made.panel.asked) == 4
    other = slow.check(400, "198.51.100.7")
    assert made.panel.asked[-1]["password"] == "a 400"
    assert not other.over
    slow.answered.callback(None)
    assert isinstance(other.value(), GrantedLogin)
    assert sum(isinstance(each.value(), GrantedLogin) for each in many) == 64
    # What was refused for that was not judged: the same password is right a moment later.
    assert isinstance(slow.check(399, IP).value(), GrantedLogin)


@pytest.mark.promise("sftp-logins-are-limited")
def test_passwords_that_are_tried_at_once_are_no_more_than_one_after_the_other(
    made: SftpNode,
) -> None:
    slow = SlowPanel(made)
    made.panel.answer = refusal(403)
    many = [slow.check(number, IP) for number in range(60)]
    slow.answered.callback(None)
    assert all(isinstance(each.value(), Rejected) for each in many)
    assert 6 <= len(made.panel.asked) < 10


def test_a_connection_that_begins_twice_is_a_fault_of_the_process(made: SftpNode) -> None:
    made.connect()
    with pytest.raises(InvalidData):
        made.connect()
    made.sessions.ended(1)
    assert not made.server.operations.runs(Operation.CHANGE_FILES)


def tries_of(most: int = 3) -> tuple[LoginTries, Clock]:
    clock = Clock()
    limits = SftpLimits(authentication_password_attempts=most)
    return LoginTries(limits, clock.seconds), clock


def test_an_address_is_blocked_for_one_user_name_and_then_for_all() -> None:
    tries, clock = tries_of()
    for number in range(3):
        assert not tries.is_blocked("192.0.2.1", "anna")
        tries.refused("192.0.2.1", "anna", f"wrong {number}", is_password=True)
    assert tries.is_blocked("192.0.2.1", "anna")
    assert not tries.is_blocked("192.0.2.1", "ben")
    assert not tries.is_blocked("192.0.2.2", "anna")
    for number in range(27):
        tries.refused("192.0.2.1", f"name {number}", "wrong", is_password=True)
    assert tries.is_blocked("192.0.2.1", "ben")
    clock.advance(60)
    assert not tries.is_blocked("192.0.2.1", "anna")


@pytest.mark.promise("sftp-logins-are-limited")
def test_memory_is_bounded_whatever_is_tried() -> None:
    tries, _ = tries_of()
    for number in range(logins._MAX_REFUSALS + 100):
        is_password = number % 2 == 0
        tries.refused(f"192.0.2.{number}", "anna", str(number), is_password=is_password)
    assert len(tries._refused) == logins._MAX_REFUSALS
    assert len(tries._counted) == logins._MAX_COUNTED
