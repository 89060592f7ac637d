"""Bytes: encodings, byte order marks, line ends."""

from __future__ import annotations

import codecs
from typing import Any

import pytest

from tests.egg_files.helpers import put
from wingsd.egg_files.changes import Change, NotDone
from wingsd.egg_files.child import Rewritten, format_of


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
