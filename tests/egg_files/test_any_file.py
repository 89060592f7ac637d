"""What must hold for any file, any path and any value."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import attrs
import javaproperties
import pytest
import tomlkit
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.egg_files.helpers import changed, put, tried
from wingsd.egg_files.changes import Change, NotDone
from wingsd.egg_files.child import format_of

pytestmark = pytest.mark.promise("egg-files-are-rewritten-or-left")

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,7}", fullmatch=True)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(".".join)
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, max_size=30)
SCALARS = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1)
DATA = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    ),
    max_size=4,
)
PARSERS = ["file", "ini", "json", "properties", "toml", "xml", "yaml"]

examples = settings(max_examples=60, deadline=None)


def read_at(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data[name]
    return data


@attrs.frozen
class Nested:
    """A form of nested data, and another library's view of it."""

    parser: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


NESTED = st.sampled_from(
    [
        Nested("json", json.dumps, json.loads),
        Nested("yaml", lambda data: str(yaml.safe_dump(data, allow_unicode=True)), yaml.safe_load),
        Nested("toml", tomlkit.dumps, tomllib.loads),
    ]
)


def as_plain(value: Any) -> Any:
    """Return a text as the number or boolean that it may have become."""
    text = str(value).lower()
    return {"1": "true", "t": "true", "0": "false", "f": "false"}.get(text, text)


@given(form=NESTED, data=DATA, path=PATHS, value=SCALARS)
@examples
def test_nested_data_holds_all_changes(form: Nested, data: Any, path: str, value: Any) -> None:
    before = form.write(data)
    change = put(path, value)
    after, failures = tried(form.parser, before, change)
    if failures:
        assert after == before
        return
    new = form.read(after)
    assert as_plain(read_at(new, path)) == as_plain(value)
    assert tried(form.parser, after, change) == (after, [])
    top = path.partition(".")[0]
    rest = {key: kept for key, kept in form.read(before).items() if key != top}
    assert {key: kept for key, kept in new.items() if key != top} == rest


@given(lines=st.lists(TEXTS, max_size=6), key=TEXTS.filter(bool), value=TEXTS)
@examples
def test_properties_hold_what_was_put(lines: list[str], key: str, value: str) -> None:
    before = "\n".join(line.replace("\\u", "u") for line in lines)
    after = changed("properties", before, put(key, value))
    assert javaproperties.loads(after) == {**javaproperties.loads(before), key: value}
    assert changed("properties", after, put(key, value)) == after


@given(
    lines=st.lists(TEXTS | st.sampled_from(["[s]", "[t]", "k=1", 'k = "2" ; c']), max_size=8),
    section=st.sampled_from(["", "s.", "[x.y]."]),
    value=TEXTS,
)
@examples
def test_ini_files_hold_what_was_put(lines: list[str], section: str, value: str) -> None:
    before = "\n".join(lines)
    after, failures = tried("ini", before, put(f"{section}k", value))
    if failures:
        assert after == before
        assert "\n" in value or "\r" in value
        return
    assert tried("ini", after, put(f"{section}k", value)) == (after, [])
    # What was put is found there again, and nowhere else: a condition on it holds.
    if written := value.strip(" \t"):
        assert "proof" in changed("ini", after, put(f"{section}k", "proof", written))


@given(path=st.lists(NAMES, min_size=2, max_size=4), value=TEXTS)
@examples
def test_xml_holds_what_was_put(path: list[str], value: str) -> None:
    before = "<!-- a -->\n<root>\n  <other>x</other>\n</root>\n"
    match = ".".join(["root", *path])
    after, failures = tried("xml", before, put(match, value))
    if failures:
        assert after == before
        return
    root = etree.fromstring(after)
    expected = value.replace("\r\n", "\n")
    if not value.startswith("[") and value.strip():
        assert root.findtext("/".join(path)).strip() == expected.strip()
    assert root.findtext("other") == "x" or path == ["other"]
    assert tried("xml", after, put(match, value)) == (after, [])


@given(text=TEXTS, prefix=TEXTS.filter(bool), value=TEXTS)
@examples
def test_lines_become_what_was_put(text: str, prefix: str, value: str) -> None:
    change = put(prefix, prefix + value)
    after = changed("file", f"{text}\n{prefix}x\n", change)
    assert "\n" in prefix or prefix + value in after
    assert changed("file", after, change) == after


@given(
    parser=st.sampled_from(PARSERS),
    data=st.binary(max_size=60)
    | st.text("[]{}<>&;:=#!?%@*|>'\"\\-.,\n\t ab1é/", max_size=60).map(str.encode),
    match=st.text("ab.*[]0@='", min_size=1, max_size=8),
    value=SCALARS,
)
@settings(max_examples=500, deadline=None)
def test_no_file_and_no_path_does_worse_than_be_refused(
    parser: str, data: bytes, match: str, value: Any
) -> None:
    form = format_of(parser)
    change = Change.from_replacement(put(match, value), {})
    try:
        once = form.rewrite(data, [change])
    except NotDone:
        return
    if once.failures:
        assert once.data == data or parser == "json" or "*" in match
        return
    assert form.rewrite(once.data, [change]) == once
