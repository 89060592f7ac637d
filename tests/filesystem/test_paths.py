"""Paths of users: what they mean, what no path can be, and names that are not UTF-8."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import NameTooLong, PathInvalid
from wingsd.filesystem.paths import ServerPath, name_from_text, name_text

pytestmark = pytest.mark.promise("files-stay-inside-the-server")

#: Texts in which what matters of paths is frequent.
TEXTS = st.lists(
    st.one_of(st.sampled_from(["/", "..", ".", "a", "\0", "\udcff", "\U0010feff"]), st.text())
).map("".join)
NAMES = st.binary(min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("/", ()),
        ("//a///b/", (b"a", b"b")),
        ("./a/.", (b"a",)),
        ("a/../b", (b"b",)),
        ("../../etc/passwd", (b"etc", b"passwd")),
        ("/..", ()),
        ("a/b/../../../c", (b"c",)),
        ("..a/...", (b"..a", b"...")),
        (" a", (b" a",)),
        ("a\\..\\b", (b"a\\..\\b",)),
        ("ü\n", ("ü\n".encode(),)),
    ],
)
def test_a_path_is_below_the_servers_directory(text: str, parts: tuple[bytes, ...]) -> None:
    assert ServerPath.parse(text).parts == parts
    assert ServerPath.from_bytes(text.encode()).parts == parts


def test_a_name_is_relative_to_its_directory_and_may_leave_it_upwards() -> None:
    directory = ServerPath.parse("/a/b")
    assert str(directory.joined("c/d")) == "a/b/c/d"
    assert str(directory.joined("/c")) == "a/b/c"
    assert str(directory.joined("../c")) == "a/c"
    assert directory.joined("../../../../c").parts == (b"c",)
    assert (directory.name, directory.parent.parts) == (b"b", (b"a",))
    assert ServerPath().parent.is_root
    assert directory.contains(directory.child(b"c"))
    assert not directory.contains(ServerPath.parse("a/bc"))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "a/\udcff", "\udc80\udc80"])
def test_what_no_name_can_be_is_refused(text: str) -> None:
    with pytest.raises(PathInvalid) as caught:
        ServerPath.parse(text)
    assert caught.value.status == 400


@pytest.mark.parametrize("parts", [(b"..",), (b".",), (b"",), (b"a/b",), (b"a", b"\0")])
def test_a_path_cannot_be_made_of_what_is_no_name(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(PathInvalid):
        ServerPath(parts)
    with pytest.raises(PathInvalid):
        ServerPath().child(parts[-1])


def test_names_and_paths_are_as_long_as_linux_allows() -> None:
    assert ServerPath.parse("ü" * 127 + "a").parts
    with pytest.raises(NameTooLong) as caught:
        ServerPath.parse("ü" * 128)
    assert caught.value.message == "Cannot perform that action: file name is too long."
    long = "/".join(["a" * 255] * 15 + ["b" * 254])
    assert len(bytes(ServerPath.parse(f"/{long}/"))) == 4094
    assert len(bytes(ServerPath.parse(f"{long}b"))) == 4095
    with pytest.raises(NameTooLong):
        ServerPath.parse(f"{long}b/c")


@given(TEXTS)
def test_no_text_leads_out(text: str) -> None:
    try:
        path = ServerPath.parse(text)
    except (PathInvalid, NameTooLong):
        return
    for part in path.parts:
        assert part not in (b"", b".", b"..")
        assert not {ord("/"), 0} & set(part)
    assert ServerPath.parse(str(path)) == path
    assert ServerPath.from_bytes(bytes(path)) == path


@pytest.mark.promise("any-name-can-be-used")
@given(NAMES)
def test_each_name_has_a_text_of_its_own_which_can_travel(name: bytes) -> None:
    text = name_text(name)
    assert json.loads(json.dumps(text).encode()) == text
    text.encode()  # no lone surrogates
    assert name_from_text(text) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain", "plain"),
        ("grün".encode(), "grün"),
        (b"gr\xfcn", "gr\U0010fefcn"),
        (b"\x80", "\U0010fe80"),
        ("\U0010fefc".encode(), "\U0010fef4\U0010fe8f\U0010febb\U0010febc"),
    ],
)
def test_bytes_that_are_not_utf8_are_shown_as_private_characters(name: bytes, text: str) -> None:
    assert name_text(name) == text
    assert ServerPath.parse(text).parts == (name,)
