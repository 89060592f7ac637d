"""Bytes: encodings, byte order marks, line ends."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import Change, NotDone
from wingsd.egg_files.child import Rewritten, format_of
from wingsd.panel.schemas import Replacement


def rewritten(parser: str, data: bytes, match: str, value: Any) -> Rewritten:
    return format_of(parser).rewrite(data, [Change.from_replacement(put(match, value), {})])


SAMPLES = [
    ("file", "a=1\nb=é\n", "a=", "a=2", "a=2\nb=é\n"),
    ("properties", "# é\na=1\nb=2\n", "a", "2", "# é\na=2\nb=2\n"),
    ("ini", "; é\n[s]\na=1\n", "s.a", "2", "; é\n[s]\na=2\n"),
    ("json", '{\n  "a": 1,\n  "b": "é"\n}\n', "a", "2", '{\n  "a": 2,\n  "b": "é"\n}\n'),
    ("yaml", "# é\na: 1\nb: 2\n", "a", "2", "# é\na: 2\nb: 2\n"),
    ("yml", "# é\na: 1\nb: 2\n", "a", "2", "# é\na: 2\nb: 2\n"),
    ("toml", "# é\na = 1\n[t]\nb = 2\n", "a", "2", "# é\na = 2\n[t]\nb = 2\n"),
    (
        "xml",
        "<r>\n  <!-- é -->\n  <a>1</a>\n</r>\n",
        "r.a",
        "2",
        "<r>\n  <!-- é -->\n  <a>2</a>\n</r>\n",
    ),
]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("parser", "text", "match", "value", "new"), SAMPLES)
def test_mark_encoding_and_line_ends_stay(
    parser: str, text: str, match: str, value: str, new: str, end: str, mark: bytes, encoding: str
) -> None:
    before = mark + text.replace("\n", end).encode(encoding)
    after = mark + new.replace("\n", end).encode(encoding)
    assert rewritten(parser, before, match, value) == Rewritten(after, [])


@pytest.mark.parametrize(
    ("parser", "match", "value", "new"),
    [
        ("file", "a=", "a=ü", b"a=\xfc\nb=\xe9\n"),
        ("properties", "a", "\u4e16", b"a=\\u4e16\nb=\xe9\n"),
        ("ini", "a", "ü", b"a=\xfc\nb=\xe9\n"),
    ],
)
def test_other_encodings_stay_as_bytes(parser: str, match: str, value: str, new: bytes) -> None:
    assert rewritten(parser, b"a=1\nb=\xe9\n", match, value) == Rewritten(new, [])


def test_a_character_that_the_files_encoding_does_not_have() -> None:
    with pytest.raises(NotDone, match=r"latin-1, has no '\\u4e16'"):
        rewritten("ini", b"a=1\nb=\xe9\n", "a", "\u4e16")


@pytest.mark.parametrize("parser", ["json", "yaml", "toml", "xml"])
def test_what_must_be_utf_8_and_is_not_is_refused(parser: str) -> None:
    with pytest.raises(NotDone, match="not text in a known encoding"):
        rewritten(parser, b"\xe9", "a", "1")


def test_xml_declares_its_encoding() -> None:
    data = '<?xml version="1.0" encoding="windows-1251"?>\n<r><a>1</a><b>мир</b></r>'.encode(
        "cp1251"
    )
    new = rewritten("xml", data, "r.a", "да \u4e16").data
    assert new.decode("cp1251").endswith("<a>да &#19990;</a><b>мир</b></r>")


def test_xml_of_dotnet_says_utf_16_and_is_not() -> None:
    data = b'<?xml version="1.0" encoding="utf-16"?>\n<r><a>1</a></r>'
    assert rewritten("xml", data, "r.a", "2").data == data.replace(b"1</a>", b"2</a>")


def test_mixed_line_ends_stay() -> None:
    data = b"[s]\r\na=1\r\nb=1\nc=1\n"
    assert rewritten("file", data, "b", "b=2").data == data.replace(b"b=1", b"b=2")


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(NotDone, match="has no"):
        rewritten("file", b"a=1\n", "a", "\ud800")


def test_an_unknown_parser_is_refused() -> None:
    with pytest.raises(NotDone, match='no parser "csv"; these are: file, ini'):
        format_of("csv")


@pytest.mark.parametrize(
    ("parser", "data", "match", "value"),
    [
        ("ini", b"", "\ufeff", "1"),
        ("file", b"a=1\n", "a", "\ufeffb"),
        ("file", b"\xe9=1\n", "\xe9", "\xff\xfe"),
    ],
)
def test_no_byte_order_mark_comes_to_be(parser: str, data: bytes, match: str, value: str) -> None:
    with pytest.raises(NotDone, match="byte order mark"):
        rewritten(parser, data, match, value)


def test_a_file_does_not_become_larger_than_what_is_read() -> None:
    limit = format_of("yaml").limit
    before = b"# " + b"x" * (limit - 10) + b"\na: 1\n"
    assert rewritten("yaml", before, "a", "2").failures == []
    with pytest.raises(NotDone, match="it would become larger than 256 KiB"):
        rewritten("yaml", before, "b", "2")


@pytest.mark.parametrize(
    ("parser", "text", "same"),
    [
        ("json", sample("factorio.json"), [("max_players", "0"), ("tags.0", "game")]),
        ("properties", "motd=A Server\\: \\u00a7bblue\n", [("motd", "A Server: §bblue")]),
        ("xml", sample("space_engineers.xml"), [("MyConfigDedicated.ServerPort", "27016")]),
        (
            "yaml",
            "a:   {x: 1}\nb: !!str 5\nc: 0x10\nd: yes\ne: ~\n",
            [("a.x", "1"), ("d", "true"), ("c", "16")],
        ),
    ],
    ids=["json", "properties", "xml", "yaml"],
)
def test_what_has_its_value_already_is_the_same_text(
    parser: str, text: str, same: list[tuple[str, str]]
) -> None:
    assert changed(parser, text, *(put(*each) for each in same)) == text


@pytest.mark.parametrize(
    ("parser", "text", "changes", "new"),
    [
        (
            "ini",
            '[s]\na=1\na=2\nb="old"\n',
            [put("s.a", "9", "2"), put("s.b", "new", "old"), put("s.c", "x", "y")],
            '[s]\na=1\na=9\nb="new"\n',
        ),
        (
            "properties",
            "a=1\nb=1\n",
            [
                put("a", "2", "1"),
                put("b", "2", "3"),
                put("c", "2", "1"),
                put("b", "x$1", r"regex:^(\d)$"),
            ],
            "a=2\nb=x1\n",
        ),
        (
            "xml",
            '<r><a> 1 </a><b v="x1"/></r>',
            [
                put("r.a", "2", "1"),
                put("r.b", "[v='y$1']", r"regex:^x(\d)$"),
                put("r.c", "3", "1"),
                put("r.a", "9", "1"),
            ],
            '<r><a>2</a><b v="y1"/></r>',
        ),
    ],
    ids=["ini", "properties", "xml"],
)
def test_conditions(parser: str, text: str, changes: list[Replacement], new: str) -> None:
    assert changed(parser, text, *changes) == new


INVALID = {
    "json": ["{", '{"a": 1} x', "// comment\n{}", '"text"', "3", "null", '{"a": 1e999}'],
    "toml": ["a = ", "a = 1\na = 2\n", "[a\n", "a = 1 b = 2\n"],
    "xml": ["<a>", "<a></b>", "text", "<a>&nothing;</a>", "<a/><b/>"],
}


@pytest.mark.parametrize(
    ("parser", "text", "why"),
    [
        *((parser, text, "") for parser, texts in INVALID.items() for text in texts),
        ("yaml", "a: [1", "line 2: did not find"),
        ("yaml", "a: 1\nb: *nothing\n", "line 2: found undefined alias"),
        ("yaml", "a: 1\na: 2\n", "line 2: found duplicate key"),
        ("yaml", "a: 1\n\tb: 2\n", "line 2: "),
        ("yaml", "a: 1\n---\nb: 1\n", "but found another document"),
        ("yaml", "just a text\n", "neither keys nor a list"),
        ("yaml", "a: \x01\n", "unacceptable character"),
        ("yaml", "? {c: {}}\n", "it is not YAML: "),
        ("yaml", "? {c: []}\n: 1\n", "it is not YAML: "),
        ("yaml", "a: 2001-99-99\n", "it is not YAML: "),
        ("properties", "path=C:\\users\n", "not a properties file"),
        ("properties", "a\\\n" * 100_000, "continued on the next"),
    ],
)
def test_what_is_not_of_its_format_is_refused(parser: str, text: str, why: str) -> None:
    with pytest.raises(NotDone) as refused:
        tried(parser, text, put("a", "1"))
    expected = f"it is not {parser.upper()}" if parser in ("toml", "xml") else why
    assert expected in str(refused.value)
