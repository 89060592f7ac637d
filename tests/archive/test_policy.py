"""Names, modes and types: what is written and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.archive.policy import (
    MAX_DEPTH,
    Kind,
    link_text,
    member_kind,
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


def test_display_escapes() -> None:
    assert display("é\n".encode() + b"\xff\x1b") == '"é\\n\\xff\\x1b"'


@pytest.mark.promise("archive-stays-inside-the-server")
@given(st.integers(0, 0o7777))
def test_a_mode_never_keeps_set_id_bits(mode: int) -> None:
    kept, stripped = member_mode(mode)
    assert kept == mode & 0o1777
    assert stripped == bool(mode & 0o6000)


@pytest.mark.parametrize(
    ("typeflag", "name", "kind"),
    [
        (b"0", b"f", Kind.FILE),
        (b"\0", b"f", Kind.FILE),
        (b"7", b"f", Kind.FILE),
        (b"S", b"f", Kind.FILE),
        (b"0", b"d/", Kind.DIRECTORY),
        (b"\0", b"d/", Kind.DIRECTORY),
        (b"5", b"d", Kind.DIRECTORY),
        (b"D", b"d/", Kind.DIRECTORY),
        (b"1", b"h", Kind.HARD_LINK),
        (b"2", b"s", Kind.SYMLINK),
        (b"3", b"c", Kind.SKIPPED),
        (b"4", b"b", Kind.SKIPPED),
        (b"6", b"p", Kind.SKIPPED),
        (b"V", b"label", Kind.SKIPPED),
    ],
)
def test_a_type_is_known(typeflag: bytes, name: bytes, kind: Kind) -> None:
    assert member_kind(typeflag, name) is kind


def test_a_symlink_text_is_kept_as_it_is() -> None:
    assert link_text(b"/../x//", b"s") == b"/../x//"
    for text in (b"", b"a\0", b"x" * 4096):
        with pytest.raises(MemberRefused):
            link_text(text, b"s")
