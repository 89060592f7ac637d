"""Names in `Content-Disposition`, and those that paths end in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.http_client.urls import disposition_name, plain_name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", ""),
        ("attachment", ""),
        ('attachment; filename="a b.zip"', "a b.zip"),
        ("attachment; filename=a.zip", "a.zip"),
        ("attachment; filename=a b.zip ; size=3", "a b.zip"),
        ('ATTACHMENT;FileName="a;b.zip"', "a;b.zip"),
        ('inline; size=3; filename = "a\\"\\b.zip"', 'a"b.zip'),
        ('attachment; filename="café.zip"', "café.zip"),
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates", "€ rates"),
        ("attachment; filename*=utf-8'en'%D0%BC%D0%B8%D1%80.jar", "мир.jar"),
        ("attachment; filename*=ISO-8859-1''caf%E9", "café"),
        ("attachment; filename=\"plain\"; filename*=UTF-8''%E4%BE%8B", "例"),
        ("attachment; filename*=UTF-8''%E4%BE%8B; filename=plain", "例"),
        ("attachment; filename=plain; filename*=UTF-8''%FF", "plain"),
        ("attachment; filename=plain; filename*=KOI8-R''%C1", "plain"),
        ("attachment; filename=plain; filename*=UTF-8%41", "plain"),
        ("attachment; filename=first; filename=second", "first"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\dir\\\\a.zip"', "a.zip"),
        ("attachment; filename*=UTF-8''..%2F..%2Fa", "a"),
        ("attachment; filename*=UTF-8''%2E%2E; filename=a", "a"),
        ('attachment; filename="a\x00b\x7f\u0085c"', "abc"),
        ('attachment; filename=".."', ""),
        ('attachment; filename=""', ""),
        ('attachment; filename="open', ""),
        ("filename=a", ""),
        ("; filename=a", "a"),
    ],
)
def test_the_name_of_a_disposition(header: str, name: str) -> None:
    assert disposition_name(header) == name


@given(st.text(max_size=80), st.text(max_size=40))
def test_any_header_gives_a_name_or_none(header: str, value: str) -> None:
    for text in (
        header,
        f"attachment; filename={header}",
        f"a; filename*=UTF-8''{value};{header}",
    ):
        name = disposition_name(text)
        assert name == plain_name(name)
        assert "/" not in name
        assert name not in (".", "..")
        name.encode()


def test_a_long_header_takes_no_long_time() -> None:
    for text in ('"\\' * 100_000, ";a=" * 100_000, '; a="' * 100_000, "a" * 300_000):
        assert disposition_name(f"x; filename={text}"[:16384]) is not None
