"""Ranges of files."""

from __future__ import annotations

import pytest

from wingsd.errors import RangeNotSatisfiable
from wingsd.http.body_sender import Validators, requested_range

FILE = Validators(size=1000, modified=1_700_000_000_123_456_789)

NANO = 1_000_000_000


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-", range(1000)),
        ("bytes=999-", range(999, 1000)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=10-5000", range(10, 1000)),
        ("bytes=-1", range(999, 1000)),
        ("bytes=-5000", range(1000)),
        ("bytes= 5-6 ", range(5, 7)),
    ],
)
def test_a_range_is_found(header: str, expected: range) -> None:
    assert requested_range(header, "", FILE) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=1-2,5-6",
        "bytes=--1",
        "bytes=1-2-3",
        "items=0-1",
        "bytes=0x1-2",
        f"bytes={'9' * 5000}-",
    ],
)
def test_an_invalid_range_and_several_are_ignored(header: str) -> None:
    assert requested_range(header, "", FILE) is None


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        requested_range(header, "", FILE)


def test_a_condition_is_held_against_this_version() -> None:
    for condition in (FILE.etag, FILE.last_modified):
        assert requested_range("bytes=1-2", condition, FILE) == range(1, 3)
    for other in (
        Validators(1001, FILE.modified).etag,
        Validators(1000, FILE.modified + 1).etag,
        "Tue, 14 Nov 2023 22:13:19 GMT",
        f"W/{FILE.etag}",
        "nonsense",
    ):
        assert requested_range("bytes=1-2", other, FILE) is None


@pytest.mark.promise("server-files-are-bounded")
@pytest.mark.parametrize(
    ("modified", "expected"),
    [
        (1_700_000_000 * NANO, "Tue, 14 Nov 2023 22:13:20 GMT"),
        (2**63 * NANO, "Fri, 31 Dec 9999 23:59:59 GMT"),
        (-(2**63) * NANO, "Mon, 01 Jan 0001 00:00:00 GMT"),
    ],
)
def test_every_time_that_a_file_may_have_is_a_date(modified: int, expected: str) -> None:
    assert Validators(1, modified).last_modified == expected
