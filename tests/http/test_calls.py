"""What a declaration says, and what a class and a signature add to it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import attrs

from wingsd.http.operations import Access, Success, Topic, call, declared

DONE = Success(HTTPStatus.OK, "It is done.")


@attrs.frozen
class Order:
    """What to do."""

    what: str


class Common:
    fails: tuple[HTTPStatus, ...] = (HTTPStatus.FORBIDDEN,)
    topic = Topic.CONSOLE


class Path(Common):
    fails = (HTTPStatus.CONFLICT,)

    @call("POST", DONE, fails=(HTTPStatus.NOT_FOUND,))
    async def do(self, request: Any, body: Order) -> None:
        """Do what is
        ordered.

        In the background,
        later.

        Or never.
        """

    @call("GET", DONE)
    async def tell(self, request: Any, query: Order) -> list[Order]:
        """Tell what is done."""
        return []

    @call("PUT", DONE, form=Order)
    def take(self, request: Any) -> int:
        """Take it as it comes."""
        return 0

    take_too = take

    async def other(self, request: Any) -> None:
        """No call."""


def test_a_class_has_the_calls_that_are_declared_in_it() -> None:
    assert {method: made.name for method, made in declared(Path).items()} == {
        "POST": "do",
        "GET": "tell",
        "PUT": "take",
    }
    assert declared(Common) == {}


def test_a_signature_says_what_is_taken_and_answered() -> None:
    calls = declared(Path)
    assert (calls["POST"].body, calls["POST"].query, calls["POST"].content) == (Order, None, None)
    assert (calls["GET"].body, calls["GET"].query) == (None, Order)
    assert calls["GET"].content == list[Order]


def test_what_is_taken_as_it_comes_is_answered_by_another() -> None:
    made = declared(Path)["PUT"]
    assert (made.form, made.body, made.content) == (Order, None, None)


def test_the_docstring_is_what_people_read() -> None:
    made = declared(Path)["POST"]
    assert made.summary == "Do what is ordered."
    assert made.description == "In the background, later.\n\nOr never."
    assert declared(Path)["GET"].description == ""


def test_a_class_says_what_its_calls_are_about() -> None:
    assert declared(Path)["GET"].topic is Topic.CONSOLE


def test_refusals_are_those_of_the_call_of_its_classes_and_of_any_body() -> None:
    calls = declared(Path, Access.MOVE)
    assert calls["GET"].fails == (403, 409)
    assert calls["POST"].fails == (400, 403, 404, 409, 413)
    assert declared(Path)["GET"].fails == (401, 403, 409)
