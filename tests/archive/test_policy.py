"""Names, modes and types: what is written and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.archive.policy import (
    MAX_DEPTH,
    member_mode,
    member_path,
)
from wingsd.errors import MemberRefused
from wingsd.util.text import display

names = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from([b"..", b".", b"", b"a", b"b\xff", b"...", b"\0"])).map(b"/".join),
)


@given(names)
def test_a_path_never_leaves_the_root(name: bytes) -> None:
    try:
        path = member_path(name)
    except MemberRefused:
        return
    assert len(path) <= MAX_DEPTH
    assert not {b"", b".", b".."} & set(path)
    assert all(b"/" not in part and b"\0" not in part and len(part) <= 255 for part in path)
    assert member_path(b"/".join(path) or b".") == path


@given(st.binary(max_size=600))
def test_what_is_displayed_is_printable_and_short(name: bytes) -> None:
    shown = display(name)
    assert shown.isprintable()
    assert len(shown) <= 210


@pytest.mark.promise("archive-stays-inside-the-server")
@given(st.integers(0, 0o7777))
def test_a_mode_never_keeps_set_id_bits(mode: int) -> None:
    kept, stripped = member_mode(mode)
    assert kept == mode & 0o1777
    assert stripped == bool(mode & 0o6000)
