"""Which tokens open the door, and what is said to the others."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

import wingsd
from tests.auth.token_values import NODE, UUID, bearer, read, refusal
from wingsd.auth.tokens import (
    EXPIRED,
    RENEW_DIRECT,
    ConsoleToken,
    DenyList,
    authorize_panel,
    console_token,
    direct_token,
    transfer_token,
    user_key,
)
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import Forbidden, Unauthorized

HOME = Path(wingsd.__file__).parent


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
    with pytest.raises(Unauthorized, match="required authorization heads"):
        authorize_panel(header, NODE.token)


def test_the_panels_token_is_good() -> None:
    assert read(bearer()).server == UUID


@pytest.mark.parametrize("audience", [None, "https://other", ["https://other"], 5])
def test_a_node_that_does_not_know_its_address_judges_no_audience(audience: Any) -> None:
    assert read(bearer(aud=audience)).server == UUID


@pytest.mark.parametrize(
    "audience",
    [
        "https://node.invalid:8080",
        ["https://other.invalid", "https://node.invalid:8080"],
        "https://NODE.invalid:8080/",
    ],
)
def test_the_audience_is_the_nodes_own_address(audience: Any) -> None:
    token = read(bearer(aud=audience), "https://node.invalid:8080/")
    assert token.server == UUID


def test_a_port_that_is_the_usual_one_need_not_be_written() -> None:
    token = bearer(aud=["https://node.invalid"])
    assert read(token, "https://node.invalid:443").server == UUID


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize(
    "audience",
    [
        None,
        [5, None],
        "http://node.invalid:8080",
        "https://node.invalid",
        ["https://other.invalid:8080"],
        "https://node.invalid:8080.other.invalid",
        "https://other.invalid:8080/https://node.invalid:8080",
        "node.invalid:8080",
    ],
)
def test_a_token_for_another_node_is_refused(audience: Any) -> None:
    address = "https://node.invalid:8080"
    detail = refusal(bearer(aud=audience), address).detail
    assert detail.startswith("it is not for this node, https://node.invalid:8080;")
    assert "`api.public_url`" in detail


@pytest.mark.parametrize("family", [PELICAN, CALAGOPUS])
def test_a_node_of_a_family_with_scopes_takes_no_token_without_one(family: str) -> None:
    token = transfer_token(bearer(scope="transfer"), NODE.token, family)
    assert token.server == UUID
    with pytest.raises(Unauthorized, match="it has no scope") as caught:
        transfer_token(bearer(), NODE.token, family)
    assert "`family`" in caught.value.detail


@pytest.mark.promise("transfer-token-is-used-once")
def test_a_signature_written_otherwise_is_no_other_token() -> None:
    header = bearer()
    known = read(header).digest
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # Its last letter holds four bits of the signature, and two that nobody has to look at.
    ways = [f"{header}=", f"{header}!", *(header[:-1] + letter for letter in letters)]
    accepted = 0
    for way in ways:
        try:
            found = read(way).digest
        except Unauthorized:
            continue
        accepted += 1
        assert found == known
    assert accepted > 1, "PyJWT has become strict, and this can go"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc.def.ghi"])
def test_a_missing_token_is_refused_with_wings_message(header: str | None) -> None:
    words = "The required authorization heads were not present in the request."
    assert refusal(header).message == words


@pytest.mark.promise("node-token-is-needed")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 1}, "expired"),
        ({"nbf": int(time.time()) + 86_400}, "not valid yet"),
        ({"exp": None}, '"exp"'),
        ({"sub": None}, '"sub"'),
        ({"sub": "../../etc"}, "not the UUID of a server"),
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


def signed(**claims: Any) -> str:
    """Return a token that says what PyJWT itself would not sign."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), NODE.token, "HS256")


@pytest.mark.parametrize("subject", [5, None, [], {}, [UUID]])
def test_what_is_no_text_is_no_subject(subject: Any) -> None:
    refusal(f"Bearer {signed(sub=subject, exp=int(time.time()) + 60)}")


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", [[1], {}, float("inf"), float("-inf"), float("nan"), "x"])
def test_what_is_no_time_is_refused(name: str, value: Any) -> None:
    claims = {"sub": UUID, "exp": int(time.time()) + 60} | {name: value}
    reason = "cannot be read" if name == "exp" else "its nbf is not a time in seconds"
    assert reason in refusal(f"Bearer {signed(**claims)}").detail


@pytest.mark.promise("token-is-for-one-purpose")
def test_a_time_can_be_too_large_for_a_float() -> None:
    token = read(f"Bearer {signed(sub=UUID, exp=10**400)}")
    assert 1e15 < token.expires < 1e16
    claims = {"server_uuid": UUID, "jti": "c", "iat": -(10**400), "exp": 10**400}
    claims["permissions"] = []
    opened = watcher(signed(**claims))
    assert opened.issued < 0 < opened.expires
    assert DenyList(booted=1000.0).refuses(opened)


@pytest.mark.promise("token-is-for-one-purpose")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp", "4000000000"),
        ("nbf", "1000"),
        ("iat", "1000"),
        ("iat", False),
        ("iat", None),
        ("iat", float("nan")),
    ],
)
def test_a_time_that_is_not_a_number_is_refused_and_named(name: str, value: Any) -> None:
    claims = {"sub": UUID, "exp": int(time.time()) + 60} | {name: value}
    assert refusal(f"Bearer {signed(**claims)}").detail == f"its {name} is not a time in seconds"


@pytest.mark.promise("secrets-are-not-shown")
def test_no_part_of_a_token_is_in_what_is_said_of_it() -> None:
    header = bearer(exp=1)
    error = refusal(header)
    for part in header.removeprefix("Bearer ").split("."):
        assert part not in str(error)


def test_a_direct_token_is_distinguished_from_the_panels() -> None:
    now = time.time()
    token = f"Bearer {direct_token(UUID, NODE.token, now, now + 60)}"
    known = read(token)
    assert (known.server, known.direct) == (UUID, True)
    assert known.expires == int(now + 60)
    assert not read(bearer()).direct
    assert read(bearer(by_hand="yes")).direct is False
    assert direct_token(UUID, NODE.token, now, now + 60) not in token


def test_a_direct_token_of_another_node_says_where_to_get_one() -> None:
    now = time.time()
    token = f"Bearer {direct_token(UUID, 'k' * 64, now, now + 60)}"
    with pytest.raises(Unauthorized) as raised:
        read(token, again=RENEW_DIRECT)
    assert "it is another node's" in raised.value.detail
    assert RENEW_DIRECT in raised.value.detail


def test_a_direct_token_is_for_the_nodes_own_address() -> None:
    now, here = time.time(), "https://node.invalid:8080"
    token = f"Bearer {direct_token(UUID, NODE.token, now, now + 60, here)}"
    assert read(token, here).direct
    assert "not for this node" in refusal(token, "https://other.invalid").detail


def test_an_expired_token_is_accepted_only_with_accept_expired() -> None:
    now = time.time() - 7200
    token = f"Bearer {direct_token(UUID, NODE.token, now, now + 60)}"
    assert "expired" in refusal(token).detail
    assert read(token, accept_expired=True).server == UUID
    with pytest.raises(Unauthorized, match="not signed with this node's key"):
        transfer_token(token, "another", PTERODACTYL, accept_expired=True)


def compared(node: ast.AST) -> Iterator[str]:
    """Yield the names of what a comparison compares."""
    for side in ast.iter_child_nodes(node):
        if isinstance(side, ast.Tuple | ast.List | ast.Call):
            yield from compared(side)
        elif isinstance(side, ast.Attribute | ast.Name):
            name = side.attr if isinstance(side, ast.Attribute) else side.id
            yield name.lstrip("_").lower()


@pytest.mark.promise("secrets-are-not-shown")
def test_secrets_are_compared_in_constant_time_alone() -> None:
    secret = {"token", "authorization", "password", "secret", "signature", "credentials"}
    for path in HOME.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            # Whether there is one at all (`is`) is no secret.
            if isinstance(node, ast.Compare) and not isinstance(node.ops[0], ast.Is | ast.IsNot):
                assert not secret & set(compared(node)), f"{path.name}, line {node.lineno}"


# Which tokens open a console, and until when


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


def watcher(token: str) -> ConsoleToken:
    return console_token(token, NODE.token, PTERODACTYL)


def console_refusal(token: str) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        watcher(token)
    return caught.value


def test_a_consoles_token_says_who_may_do_what_where() -> None:
    token = watcher(console(iat=1000, exp=4e9, permissions=["websocket.connect"]))
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
    assert watcher(jwt.encode(claims, NODE.token, "HS256")).server == UUID


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
        ({"permissions": "*"}, "not a list of texts"),
        ({"permissions": [1]}, "not a list of texts"),
        ({"iat": "1000"}, "its iat is not a time in seconds"),
        ({"iat": True}, "its iat is not a time in seconds"),
    ],
)
def test_a_bad_console_token_is_refused_with_reason(claims: dict[str, Any], reason: str) -> None:
    assert reason in console_refusal(console(**claims)).detail


def issued(at: float, jti: str = "a") -> ConsoleToken:
    return ConsoleToken("user", UUID, jti, at, at + 600, frozenset("*"))


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [(["*"], [True, False]), (["admin.websocket.transfer"], [False, True]), ({}, [False, False])],
)
def test_everything_is_everything_but_what_administrators_see(
    permissions: Any, allowed: list[bool]
) -> None:
    token = watcher(console(permissions=permissions))
    asked = ("control.start", "admin.websocket.transfer")
    assert [token.allows(permission) for permission in asked] == allowed


@pytest.mark.promise("token-is-for-one-purpose")
def test_a_scope_that_there_is_must_be_that_of_its_purpose() -> None:
    for scope in (None, "transfer", "other transfer"):
        assert read(bearer(scope=scope)).server == UUID
    for other in ("", "websocket", "transfers", "file-upload", 5, ["x"]):
        assert "its scope is not transfer" in refusal(bearer(scope=other)).detail
    for scope in (None, "websocket", "websocket other", "other,websocket"):
        assert watcher(console(scope=scope)).server == UUID
    assert "its scope is not websocket" in console_refusal(console(scope="transfer")).detail


OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"


@pytest.mark.promise("revoked-console-token-stays-refused")
@pytest.mark.parametrize(
    ("booted", "steps", "refused", "good"),
    [
        # Tokens are dated in whole seconds: one of the second of the boot may be of after it.
        (1000.5, [], [(999.0, "a")], [(1000.6, "a"), (1000.0, "a")]),
        (1000.0, [("deny", "ab", 2000.0)], [(1999.0, "a")], [(2000.0, "a"), (1999.0, "c")]),
        # A later denial counts, and a boot is never undone.
        (1000.0, [("deny", "a", 2000.0), ("deny", "a", 3000.0)], [(2500.0, "a")], []),
        (1000.0, [("deny", "b", 500.0)], [(900.0, "b")], []),
        # All of a user, for another server, this one, and all.
        (1000.0, [("deny", [user_key("user", OTHER)], 2000.0)], [], [(1999.0, "a")]),
        (1000.0, [("deny", [user_key("USER", UUID)], 2000.0)], [(1999.0, "a")], [(2000.0, "a")]),
        (1000.0, [("deny", [user_key("user")], 3000.0)], [(2500.0, "b")], [(3000.0, "a")]),
        # Those from before a restart: by the boot alone, the first would be good.
        (1000.6, [("restore", {"a": 1000.4})], [(1000.0, "a")], [(1000.0, "b")]),
        # The clock is set back.
        (1000.0, [("restore", {"a": 2000.0})], [(1500.0, "a")], [(1500.0, "b")]),
        (1000.0, [("restore", {"a": 2000.0}), ("deny", "a", 1600.0)], [(1900.0, "a")], []),
        # Denials are forgotten.
        (1000.0, [("refuse_before", 500.0)], [], [(1000.0, "a")]),
        (1000.0, [("refuse_before", 2000.0)], [(1999.0, "a")], [(2000.0, "a")]),
    ],
)
def test_a_token_from_before_the_boot_or_its_denial_is_refused(
    booted: float, steps: list[Any], refused: list[Any], good: list[Any]
) -> None:
    denied = DenyList(booted=booted)
    for method, *arguments in steps:
        getattr(denied, method)(*arguments)
    assert [denied.refuses(issued(*each)) for each in refused + good] == [
        *[True] * len(refused),
        *[False] * len(good),
    ]
