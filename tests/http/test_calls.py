"""What a declaration says, and what a class and a signature add to it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import attrs

from wingsd.http.operations import Access, Call, Topic, call


@attrs.frozen
class Order:
    """What to do."""

    what: str


class Common:
    fails: tuple[HTTPStatus, ...] = (HTTPStatus.FORBIDDEN,)
    topic = Topic.CONSOLE


class Path(Common):
    fails = (HTTPStatus.CONFLICT,)

    @call(HTTPStatus.OK, "It is done.", fails=(HTTPStatus.NOT_FOUND,))
    async def do(self, request: Any, body: Order) -> None:
        """Do what is
        ordered.

        In the background,
        later.

        Or never.
        """

    @call(HTTPStatus.OK, "It is done.")
    async def tell(self, request: Any, query: Order) -> list[Order]:
        """Tell what is done."""
        return []

    @call(HTTPStatus.OK, "It is done.", form=Order)
    def take(self, request: Any) -> int:
        """Take it as it comes."""
        return 0

    take_too = take

    async def other(self, request: Any) -> None:
        """No call."""


def test_a_call_is_that_of_the_class_which_declares_it() -> None:
    calls = (Path.do, Path.tell, Path.take)
    assert [made.name for made in calls] == ["do", "tell", "take"]
    assert {made.endpoint for made in calls} == {Path}
    assert not isinstance(Path.other, Call)


def test_an_instance_has_the_handlers_as_methods() -> None:
    assert Path().take(None) == Path().take_too(None) == 0


def test_a_signature_says_what_is_taken_and_answered() -> None:
    assert (Path.do.body, Path.do.query, Path.do.content) == (Order, None, None)
    assert (Path.tell.body, Path.tell.query) == (None, Order)
    assert Path.tell.content == list[Order]


def test_what_is_taken_as_it_comes_is_answered_by_another() -> None:
    assert (Path.take.form, Path.take.body, Path.take.content) == (Order, None, None)


def test_the_docstring_is_what_people_read() -> None:
    assert Path.do.summary == "Do what is ordered."
    assert Path.do.description == "In the background, later.\n\nOr never."
    assert Path.tell.description == ""


def test_a_class_says_what_its_calls_are_about() -> None:
    assert Path.tell.topic is Topic.CONSOLE


def test_refusals_are_those_of_the_call_of_its_classes_and_of_any_body() -> None:
    assert Path.tell.routed("GET", Access.MOVE).fails == (403, 409)
    assert Path.do.routed("POST", Access.MOVE).fails == (400, 403, 404, 409, 413)
    assert Path.tell.routed("GET", Access.PANEL).fails == (401, 403, 409)
