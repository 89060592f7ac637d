"""Whatever the members of an archive are: nothing outside the directory is touched.

The same look-out as under the fuzzer, which finds its inputs by itself (fuzz/archive.py).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.archive import one
from tests.support.archives import END, member, pax

pytestmark = pytest.mark.promise("archive-stays-inside-the-server")

STEPS = st.sampled_from([b"a", b"b", b"..", b".", b"", b"canary", b"outside", b"A", b"\xc3\xa9"])
NAMES = st.lists(STEPS, max_size=5).map(b"/".join)
TYPES = st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"3", b"6", b"7", b"S", b"D", b"L", b"K"])
SIZES = st.sampled_from([b"", b"0", b"-1", b"777777777777", b"\x80" + b"\0" * 10 + b"\1"])
KEYS = st.sampled_from([b"path", b"linkpath", b"size", b"mtime", b"GNU.sparse.name", b"comment"])
VALUES = NAMES | st.sampled_from([b"-1", b"9" * 30, b"1.5", b"\0", b"\n", b"0", b"512"])


@st.composite
def members(draw: Any) -> bytes:
    """Return a member: usual, or with a size that is not its data's."""
    data = draw(st.binary(max_size=20))
    fields = {"mode": draw(st.integers(0, 0o7777)), "link": draw(NAMES)[:100]}
    if draw(st.integers(0, 5)) == 0:
        fields["size"] = draw(SIZES)[:12]
    return member(draw(NAMES)[:100], data, draw(TYPES), **fields)


@st.composite
def headers(draw: Any) -> bytes:
    """Return an extended header, for the next member or for all."""
    records = draw(st.lists(st.tuples(KEYS, VALUES), max_size=3))
    return pax(*records, typeflag=draw(st.sampled_from([b"x", b"x", b"g"])))


@given(
    parts=st.lists(members() | headers(), max_size=8),
    form=st.sampled_from([0, 0, 0, 0, 0, 2, 3, 8, 9, 10]),
    cut=st.integers(0, 4),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_outside_is_touched(parts: list[bytes], form: int, cut: int) -> None:
    archive = b"".join(parts) + END
    one(bytes([form]) + (archive if cut else archive[: len(archive) // 2]))


@given(st.binary(max_size=600), st.integers(0, 11))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(noise: bytes, form: int) -> None:
    one(bytes([form]) + noise)
