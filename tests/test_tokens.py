"""Which tokens open the door, and what is said to the others."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from wingsd.errors import Forbidden, NotAuthorized
from wingsd.testing import Node, Panel
from wingsd.tokens import authorize_panel, transfer_token

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


@pytest.mark.parametrize("token", ["abc", "a.b.c", "a.b.c.d", "\x00", "é.é.é"])
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
