"""Pauses between attempts, and the header Retry-After."""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import islice

import pytest

from wingsd.util.retry import Backoff, seconds_asked_for


@pytest.mark.promise("success-is-repeated")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("99999999", 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", 0),
        ("-5", 0),
        ("", 0),
        ("9" * 400, 3600),
        ("1 Jan 99999999999 0:0:0 GMT", 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float) -> None:
    assert seconds_asked_for(value) == seconds


def test_a_date_to_come_is_counted_from_now() -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    assert 90 < seconds_asked_for(date) <= 100


def test_pauses_double_up_to_the_longest() -> None:
    assert list(islice(Backoff(1.0, 5.0), 5)) == [1, 2, 4, 5, 5]
