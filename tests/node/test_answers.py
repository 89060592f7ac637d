"""Answers that many askers share."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.support.workers import HeldWorkers
from wingsd.node.answers import LatestAnswer, SharedAnswer


class Question:
    """A question whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []

    def __call__(self) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]


async def test_two_hundred_questions_at_once_are_asked_once() -> None:
    question, clock = Question(), Clock()
    shared = SharedAnswer(question, clock)
    answers = [shared.get() for _ in range(200)]
    assert len(question.asked) == 1
    question.asked[0].callback("an answer")
    assert {await answer for answer in answers} == {"an answer"}


async def test_an_answer_is_kept_for_a_while_and_then_asked_for_anew() -> None:
    question, clock = Question(), Clock()
    shared = SharedAnswer(question, clock, keep=5)
    first = shared.get()
    question.asked[0].callback(1)
    clock.advance(4)
    assert (await first, await shared.get()) == (1, 1)
    clock.advance(1)
    second = shared.get()
    question.asked[1].callback(2)
    assert await second == 2


async def test_an_error_is_for_all_who_wait_and_is_not_kept() -> None:
    question, clock = Question(), Clock()
    shared = SharedAnswer(question, clock, keep=5)
    waiting = [shared.get(), shared.get()]
    question.asked[0].errback(OSError("gone"))
    for each in waiting:
        with pytest.raises(OSError, match="gone"):
            await each
    shared.get()
    assert len(question.asked) == 2


async def test_one_who_leaves_leaves_the_answer_to_the_others() -> None:
    question, clock = Question(), Clock()
    shared = SharedAnswer(question, clock)
    leaving, staying = shared.get(), shared.get()
    leaving.cancel()
    question.asked[0].callback("an answer")
    with pytest.raises(CancelledError):
        await leaving
    assert await staying == "an answer"


async def test_what_hangs_is_not_called_again_and_shows_its_last_value() -> None:
    clock = Clock()
    workers: Any = HeldWorkers()
    latest: LatestAnswer[int] = LatestAnswer(lambda: 0, workers, clock)
    asking = Deferred.fromCoroutine(latest.get(1.0))
    workers.held[0].result.callback(7)
    assert (await asking, latest.value) == (True, 7)
    for _ in range(3):
        asking = Deferred.fromCoroutine(latest.get(1.0))
        clock.advance(1.0)
        assert (await asking, latest.value) == (False, 7)
    assert len(workers.held) == 2
    workers.held[1].result.callback(8)
    assert latest.value == 8


async def test_what_fails_has_no_value() -> None:
    workers: Any = HeldWorkers()
    latest: LatestAnswer[int] = LatestAnswer(lambda: 0, workers, Clock())
    asking = Deferred.fromCoroutine(latest.get(1.0))
    workers.held[0].result.errback(PermissionError("closed"))
    assert (await asking, latest.value) == (True, None)
