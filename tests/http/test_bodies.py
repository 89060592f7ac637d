"""JSON bodies as values, and what is said of those that are none."""

from __future__ import annotations

import attrs
import pytest

from wingsd.errors import BadRequest
from wingsd.http.operations import parse


@attrs.frozen
class Order:
    url: str
    count: int = 1
    names: tuple[str, ...] = ()


def test_an_object_is_a_value_and_unknown_keys_are_fine() -> None:
    body = b'{"url": "x", "names": ["a", "\\u00e9"], "more": {"of": "it"}}'
    assert parse(body, Order) == Order("x", 1, ("a", "\N{LATIN SMALL LETTER E WITH ACUTE}"))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"action=start", "Expecting value"),
        (b'{"url": "\xff"}', "can't decode"),
        (b'{"url": "\\ud800"}', "surrogates not allowed"),
        (b'{"url": ' + b"[" * 100_000, "nested deeper than 100"),
        (b'{"url": "x", "more": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 100"),
        (b'{"url": "x", "url": "y"}', "same name twice"),
        (b'{"url": NaN}', "not JSON compliant"),
        (b'{"url": 1e999}', "not JSON compliant"),
        (b'{"count": ' + b"9" * 10_000 + b"}", "digits"),
    ],
)
def test_invalid_json_is_refused_with_its_reason(body: bytes, detail: str) -> None:
    with pytest.raises(BadRequest, match="not in a parsable format") as caught:
        parse(body, Order)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{}", "url: is missing and has no default"),
        (b"[]", "url: is missing and has no default"),
        (b'{"url": null}', "url: is missing and has no default"),
        (b'{"url": 5}', "url: expected a text, found a whole number"),
        (b"5", "expected a map of keys and values, found a whole number"),
        (b"null", "expected a map of keys and values, found nothing"),
        (b'{"url": "x", "names": "x"}', "names: expected a list, found a text"),
        (b'{"url": "x", "names": ["x", 5]}', "names[1]: expected a text, found a whole number"),
        (b'{"url": 5, "count": true}', "url: expected a text, found a whole number; count: "),
    ],
)
def test_an_invalid_value_is_refused_with_its_path(body: bytes, detail: str) -> None:
    with pytest.raises(BadRequest, match="could not be validated") as caught:
        parse(body, Order)
    assert detail in caught.value.detail
