"""Which tokens open the door, and what is said to the others."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from wingsd.errors import Forbidden, NotAuthorized
from wingsd.testing import Node, Panel
from wingsd.tokens import (
    EXPIRED,
    ConsoleToken,
    DenyList,
    authorize_panel,
    console_token,
    transfer_token,
)

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
NODE = Node("https://node.invalid:8080")


def bearer(**claims: Any) -> str:
    return f"Bearer {Panel().transfer_token(UUID, NODE, **claims)}"


def refusal(authorization: str | None) -> NotAuthorized:
    with pytest.raises(NotAuthorized) as caught:
        transfer_token(authorization, NODE.token)
    assert caught.value.status == 401
    return caught.value


def test_the_panel_calls_with_the_nodes_own_token() -> None:
    authorize_panel(f"Bearer {NODE.token}", NODE.token)
    authorize_panel(f"bearer  {NODE.token} ", NODE.token)


@pytest.mark.parametrize("token", ["x", NODE.token[:-1], NODE.token + "x", "\N{SNOWMAN}"])
def test_another_token_is_forbidden(token: str) -> None:
    with pytest.raises(
        Forbidden, match="You are not authorized to access this endpoint"
    ) as caught:
        authorize_panel(f"Bearer {token}", NODE.token)
    assert caught.value.status == 403
    assert NODE.token not in str(caught.value)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", f"Basic {NODE.token}"])
def test_without_a_token_the_panel_is_not_known(header: str | None) -> None:
    with pytest.raises(NotAuthorized, match="required authorization heads"):
        authorize_panel(header, NODE.token)


def test_the_panels_token_is_good() -> None:
    assert transfer_token(bearer(), NODE.token).server == UUID


def test_an_upper_case_uuid_is_the_same_server() -> None:
    assert transfer_token(bearer(sub=UUID.upper()), NODE.token).server == UUID


@pytest.mark.parametrize(
    "claims", [{"aud": None}, {"aud": "https://other"}, {"scope": "transfer"}]
)
def test_the_audience_is_not_judged(claims: dict[str, Any]) -> None:
    assert transfer_token(bearer(**claims), NODE.token).server == UUID


def test_times_may_be_floats() -> None:
    now = time.time()
    token = bearer(iat=now + 0.5, nbf=now - 0.5, exp=now + 60.5)
    assert transfer_token(token, NODE.token).server == UUID


def test_a_node_whose_clock_is_behind_the_panels_accepts_its_tokens() -> None:
    assert transfer_token(bearer(now=time.time() + 200), NODE.token).server == UUID


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc.def.ghi"])
def test_no_token_gets_the_documents_words(header: str | None) -> None:
    words = "The required authorization heads were not present in the request."
    assert refusal(header).message == words


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 1}, "expired"),
        ({"nbf": int(time.time()) + 600}, "not valid yet"),
        ({"exp": None}, '"exp"'),
        ({"sub": None}, '"sub"'),
        ({"sub": "../../etc"}, "not the UUID of a server"),
        ({"sub": UUID + "\n"}, "not the UUID of a server"),
        ({"sub": UUID.replace("-", "")}, "not the UUID of a server"),
        ({"exp": "soon"}, "cannot be read"),
        ({"key": "k" * 64}, "not signed with this node's key"),
        ({"algorithm": "HS512"}, "signed with HS256"),
        ({"algorithm": "none", "key": ""}, "signed with HS256"),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(claims: dict[str, Any], reason: str) -> None:
    assert reason in refusal(bearer(**claims)).detail


@pytest.mark.parametrize(
    "token", ["abc", "a.b.c", "a.b.c.d", "\x00", "é.é.é", "\ud800.b.c", f"{'W1tb' * 3000}.b.c"]
)
def test_what_is_no_jwt_is_refused(token: str) -> None:
    assert "cannot be read" in refusal(f"Bearer {token}").detail


def test_a_number_for_a_subject_is_refused() -> None:
    claims = {"sub": 5, "exp": int(time.time()) + 60}
    # PyJWT would not sign it from 2.10 on, so the payload is signed as plain bytes.
    token = jwt.api_jws.encode(str(claims).replace("'", '"').encode(), NODE.token, "HS256")
    refusal(f"Bearer {token}")


def test_no_part_of_a_token_is_in_what_is_said_of_it() -> None:
    header = bearer(exp=1)
    error = refusal(header)
    for part in header.removeprefix("Bearer ").split("."):
        assert part not in str(error)


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


def console_refusal(token: str) -> NotAuthorized:
    with pytest.raises(NotAuthorized) as caught:
        console_token(token, NODE.token)
    return caught.value


def test_a_consoles_token_says_who_may_do_what_where() -> None:
    token = console_token(
        console(iat=1000, exp=4e9, permissions=["websocket.connect"]), NODE.token
    )
    assert token == ConsoleToken(
        user="6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5",
        server=UUID,
        permissions=frozenset({"websocket.connect"}),
        jti="c" * 32,
        issued=1000.0,
        expires=4e9,
    )


def test_everything_is_everything_but_what_administrators_see() -> None:
    token = console_token(console(permissions=["*"]), NODE.token)
    assert token.allows("control.start")
    assert not token.allows("admin.websocket.transfer")


def test_what_is_granted_by_name_is_granted_to_administrators_too() -> None:
    token = console_token(console(permissions=["admin.websocket.transfer"]), NODE.token)
    assert token.allows("admin.websocket.transfer")
    assert not token.allows("control.start")


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_no_permissions_are_none(nothing: Any) -> None:
    assert console_token(console(permissions=nothing), NODE.token).permissions == frozenset()


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
        ({"server_uuid": None}, "its server_uuid is not the UUID of a server"),
        ({"server_uuid": 5}, "its server_uuid is not the UUID of a server"),
        ({"permissions": "*"}, "not a list of texts"),
        ({"permissions": [1]}, "not a list of texts"),
        ({"iat": "1000"}, "its iat is not a time in seconds"),
        ({"iat": True}, "its iat is not a time in seconds"),
        ({"exp": "4000000000"}, "its exp is not a time in seconds"),
    ],
)
def test_a_bad_consoles_token_is_refused_with_its_reason(
    claims: dict[str, Any], reason: str
) -> None:
    assert reason in console_refusal(console(**claims)).detail


def test_a_transfers_token_opens_no_console() -> None:
    token = bearer().removeprefix("Bearer ")
    assert "server_uuid" in console_refusal(token).detail


def issued(at: float, jti: str = "a") -> ConsoleToken:
    return ConsoleToken("user", UUID, frozenset("*"), jti, at, at + 600)


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
