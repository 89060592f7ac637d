"""Wrong passwords and keys are kept for seconds and counted by address."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from wingsd.config import SftpLimits
from wingsd.sftp import logins
from wingsd.sftp.logins import LoginTries


def made(most: int = 3) -> tuple[LoginTries, Clock]:
    clock = Clock()
    limits = SftpLimits(authentication_password_attempts=most)
    return LoginTries(limits, clock.seconds), clock


def test_the_same_login_is_refused_for_seconds_without_another_call() -> None:
    made_, clock = made()
    made_.refused("192.0.2.1", "anna.5b0c7a6e", "wrong", is_password=True)
    assert made_.is_refused("anna.5b0c7a6e", "wrong")
    assert not made_.is_refused("anna.5b0c7a6e", "other")
    assert not made_.is_refused("anna.5b0c7a6ew", "rong")
    clock.advance(logins.REFUSAL_KEPT)
    assert not made_.is_refused("anna.5b0c7a6e", "wrong")


def test_an_address_is_blocked_for_one_user_name_and_then_for_all() -> None:
    made_, clock = made()
    for number in range(3):
        assert not made_.is_blocked("192.0.2.1", "anna")
        made_.refused("192.0.2.1", "anna", f"wrong {number}", is_password=True)
    assert made_.is_blocked("192.0.2.1", "anna")
    assert not made_.is_blocked("192.0.2.1", "ben")
    assert not made_.is_blocked("192.0.2.2", "anna")
    for number in range(27):
        made_.refused("192.0.2.1", f"name {number}", "wrong", is_password=True)
    assert made_.is_blocked("192.0.2.1", "ben")
    clock.advance(60)
    assert not made_.is_blocked("192.0.2.1", "anna")


def test_a_login_forgives_the_tries_before_it() -> None:
    made_, _ = made(most=2)
    made_.refused("192.0.2.1", "anna", "wrong", is_password=True)
    made_.granted("192.0.2.1", "anna")
    made_.refused("192.0.2.1", "anna", "wrong again", is_password=True)
    assert not made_.is_blocked("192.0.2.1", "anna")


@pytest.mark.promise("sftp-logins-are-limited")
def test_memory_is_bounded_whatever_is_tried() -> None:
    made_, _ = made()
    for number in range(logins._MAX_REFUSALS + 100):
        is_password = number % 2 == 0
        made_.refused(f"192.0.2.{number}", "anna", str(number), is_password=is_password)
    assert len(made_._refused) == logins._MAX_REFUSALS
    assert len(made_._counted) == logins._MAX_COUNTED
