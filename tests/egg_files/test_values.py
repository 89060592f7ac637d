from __future__ import annotations

import pytest

from wingsd.egg_files.changes import Scalar, convert_like, scalar_text


@pytest.mark.parametrize(
    ("value", "found", "new"),
    [
        # The Panel fills a port in as text; an empty place and a number's get a number.
        ("25565", None, 25565),
        ("25565", 1, 25565),
        ("-1", 0, -1),
        ("1.5", 1, 1.5),
        ("2", 1.5, 2.0),
        ("1e3", 1.5, 1000.0),
        # What is a text stays one: a password of digits.
        ("12345", "secret", "12345"),
        ("true", "yes", "true"),
        ("true", True, True),
        ("1", False, True),
        ("F", True, False),
        # No boolean, no number: the text itself.
        ("maybe", True, "maybe"),
        ("many", 20, "many"),
        ("1e999", 1.5, "1e999"),
        ("nan", 1.5, "nan"),
        ("0123", None, "0123"),
        ("1_000", 5, "1_000"),
        ("٣", None, "٣"),
        (str(2**63 - 1), None, 2**63 - 1),
        (str(2**63), None, str(2**63)),
        ("", None, ""),
        ("7", {"a": 1}, 7),
        # What was no text in the egg keeps its type.
        (True, "yes", True),
        (7, "x", 7),
        (1.5, None, 1.5),
    ],
)
def test_the_type_is_that_of_what_is_there(value: Scalar, found: object, new: Scalar) -> None:
    assert convert_like(value, found) == new
    assert type(convert_like(value, found)) is type(new)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (1.5, "1.5"),
        ("é", "é"),
        (None, None),
        ([], None),
    ],
)
def test_scalars_have_a_text(value: object, text: str | None) -> None:
    assert scalar_text(value) == text
