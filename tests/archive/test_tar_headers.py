"""What single fields and records of headers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.archives import pax_record
from wingsd.archive.tar_reader import number, pax_records, pax_time


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1700000000.123456789", 1_700_000_000_123_456_789),
        (b"1700000000.1234567899", 1_700_000_000_123_456_789),
        (b"1", 10**9),
        (b"1.", 10**9),
        (b"0.000000001", 1),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
    ],
)
def test_pax_times_are_exact(text: bytes, nanoseconds: int) -> None:
    assert pax_time(text) == nanoseconds


@pytest.mark.parametrize("text", [b"", b"x", b"1e5", b"nan", b"1_0", b" 1", b"9" * 19, b"1\n"])
def test_other_times_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="time"):
        pax_time(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b" 644 \0\0\0", 0o644),
        (b"        ", 0),
        (b"\0" * 8, 0),
        (b"644\0junk", 0o644),
        (b"\x80" + bytes(6) + b"\x05", 5),
        (b"77777777", 0o77777777),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert number(field, "size") == value


@pytest.mark.parametrize(
    "field",
    [
        b"-1      ",
        b"0x12    ",
        b"0_7     ",
        b"89      ",
        b"abc     ",
        b"\xff" * 8,
        b"\xbf" + b"\xff" * 11,
    ],
)
def test_numbers_that_are_none(field: bytes) -> None:
    with pytest.raises(ValueError, match="its size"):
        number(field, "size")


@given(st.integers(0, 2**63 - 1))
def test_base_256(value: int) -> None:
    assert number(b"\x80" + value.to_bytes(11, "big"), "size") == value


@pytest.mark.parametrize(
    "payload",
    [
        b"x",
        b"5 a=",
        b"0 a=b\n",
        b"99 a=b\n",
        b"6 a=b\nx",
        b"6 ab\n\n",
        b"6 =ab\n",
        b" 6 a=\n",
        b"-6 a=\n",
    ],
)
def test_malformed_pax_headers(payload: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        list(pax_records(payload))


@given(st.lists(st.tuples(st.binary(min_size=1).filter(lambda k: b"=" not in k), st.binary())))
def test_pax_records_round_trip(records: list[tuple[bytes, bytes]]) -> None:
    assert list(pax_records(b"".join(pax_record(*r) for r in records))) == records
