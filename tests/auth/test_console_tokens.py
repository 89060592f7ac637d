"""Which tokens open a console, and until when."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.auth.token_values import NODE, UUID, bearer, refusal
from wingsd.auth.tokens import EXPIRED, ConsoleToken, DenyList, console_token, user_key
from wingsd.config import PTERODACTYL
from wingsd.errors import Unauthorized


def console(**claims: Any) -> str:
    """Return a console's token as the Panel makes it; None leaves a claim out."""
    now = int(time.time())
    usual = {
        "iss": "https://panel.invalid",
        "jti": "c" * 32,
        "iat": now,
        "nbf": now - 300,
        "exp": now + 600,
        "server_uuid": UUID,
        "user_uuid": "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5",
        "permissions": ["*"],
        "unique_id": "x" * 16,
    }
    payload = {name: value for name, value in (usual | claims).items() if value is not None}
    return jwt.encode(payload, NODE.token, "HS256")


def console_refusal(token: str) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        console_token(token, NODE.token, PTERODACTYL)
    return caught.value


def test_a_consoles_token_says_who_may_do_what_where() -> None:
    token = console_token(
        console(iat=1000, exp=4e9, permissions=["websocket.connect"]), NODE.token, PTERODACTYL
    )
    assert token == ConsoleToken(
        user="6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5",
        server=UUID,
        permissions=frozenset({"websocket.connect"}),
        jti="c" * 32,
        issued=1000.0,
        expires=4e9,
    )


def test_calagopus_writes_null_for_no_time_from_which_a_token_is_valid() -> None:
    claims = {"exp": 4e9, "iat": 1000, "jti": "c", "server_uuid": UUID, "nbf": None}
    claims["permissions"] = ["*"]
    assert (
        console_token(jwt.encode(claims, NODE.token, "HS256"), NODE.token, PTERODACTYL).server
        == UUID
    )


def test_everything_is_everything_but_what_administrators_see() -> None:
    token = console_token(console(permissions=["*"]), NODE.token, PTERODACTYL)
    assert token.allows("control.start")
    assert not token.allows("admin.websocket.transfer")


def test_what_is_granted_by_name_is_granted_to_administrators_too() -> None:
    token = console_token(
        console(permissions=["admin.websocket.transfer"]), NODE.token, PTERODACTYL
    )
    assert token.allows("admin.websocket.transfer")
    assert not token.allows("control.start")


@pytest.mark.parametrize("nothing", [[], {}])
def test_no_permissions_are_none(nothing: Any) -> None:
    assert (
        console_token(console(permissions=nothing), NODE.token, PTERODACTYL).permissions
        == frozenset()
    )


def test_an_expired_consoles_token_is_refused_in_the_words_the_page_acts_on() -> None:
    error = console_refusal(console(exp=int(time.time()) - 1))
    assert error.message == EXPIRED
    assert "reload the page" in error.detail


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, '"exp"'),
        ({"iat": None}, '"iat"'),
        ({"jti": None}, '"jti"'),
        ({"permissions": None}, "it is for file-upload (server_uuid), not for websocket"),
        ({"server_uuid": None}, "its server_uuid is not the UUID of a server"),
        ({"server_uuid": 5}, "its server_uuid is not the UUID of a server"),
        ({"permissions": "*"}, "not a list of texts"),
        ({"permissions": [1]}, "not a list of texts"),
        ({"iat": "1000"}, "its iat is not a time in seconds"),
        ({"iat": True}, "its iat is not a time in seconds"),
        ({"exp": "4000000000"}, "its exp is not a time in seconds"),
    ],
)
def test_a_bad_console_token_is_refused_with_reason(claims: dict[str, Any], reason: str) -> None:
    assert reason in console_refusal(console(**claims)).detail


@pytest.mark.parametrize("scope", [None, "websocket", "websocket other", "other,websocket"])
def test_a_scope_that_there_is_must_be_that_of_consoles(scope: str | None) -> None:
    assert console_token(console(scope=scope), NODE.token, PTERODACTYL).server == UUID


def test_another_scope_opens_no_console() -> None:
    assert "its scope is not websocket" in console_refusal(console(scope="transfer")).detail


def test_a_consoles_token_moves_no_server() -> None:
    assert '"sub"' in refusal(f"Bearer {console()}").detail


def test_a_transfers_token_opens_no_console() -> None:
    token = bearer().removeprefix("Bearer ")
    assert "it is for transfer (sub), not for websocket" in console_refusal(token).detail


def issued(at: float, jti: str = "a") -> ConsoleToken:
    return ConsoleToken("user", UUID, jti, at, at + 600, frozenset("*"))


def test_tokens_from_before_the_boot_are_refused() -> None:
    denied = DenyList(booted=1000.5)
    assert denied.refuses(issued(999.0))
    assert not denied.refuses(issued(1000.6))
    # Dated in whole seconds, it may be of after the boot.
    assert not denied.refuses(issued(1000.0))


def test_a_denied_token_is_refused_and_one_issued_later_is_not() -> None:
    denied = DenyList(booted=1000.0)
    denied.deny(["a", "b"], 2000.0)
    assert denied.refuses(issued(1999.0))
    assert not denied.refuses(issued(2000.0))
    assert not denied.refuses(issued(1999.0, "c"))


def test_a_later_denial_counts_and_a_boot_is_never_undone() -> None:
    denied = DenyList(booted=1000.0)
    denied.deny(["a"], 2000.0)
    denied.deny(["a"], 3000.0)
    denied.deny(["b"], 500.0)
    assert denied.refuses(issued(2500.0))
    assert denied.refuses(issued(900.0, "b"))


def test_a_user_is_denied_for_a_server_or_for_all() -> None:
    user = issued(1999.0).user
    denied = DenyList(booted=1000.0)
    denied.deny([user_key(user, "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10")], 2000.0)
    assert not denied.refuses(issued(1999.0))
    denied.deny([user_key(user.upper(), UUID)], 2000.0)
    assert denied.refuses(issued(1999.0))
    assert not denied.refuses(issued(2000.0))
    denied.deny([user_key(user)], 3000.0)
    assert denied.refuses(issued(2500.0, "another"))
    assert not denied.refuses(issued(3000.0))


def test_what_was_denied_is_known_after_a_restart() -> None:
    # The Panel dates tokens in whole seconds: by the boot alone, this one would be good.
    denied = DenyList(booted=1000.6)
    denied.restore({"a": 1000.4})
    assert denied.refuses(issued(1000.0))
    assert not denied.refuses(issued(1000.0, "b"))


@pytest.mark.promise("revoked-console-token-stays-refused")
def test_a_clock_set_back_lets_no_denied_token_in() -> None:
    denied = DenyList(booted=1000.0)
    denied.restore({"a": 2000.0})
    assert denied.refuses(issued(1500.0))
    assert not denied.refuses(issued(1500.0, "b"))
    denied.deny(["a"], 1600.0)
    assert denied.refuses(issued(1900.0))


def test_denials_that_are_forgotten_let_nothing_in_from_before() -> None:
    denied = DenyList(booted=1000.0)
    denied.refuse_before(500.0)
    assert not denied.refuses(issued(1000.0))
    denied.refuse_before(2000.0)
    assert denied.refuses(issued(1999.0))
    assert not denied.refuses(issued(2000.0))
