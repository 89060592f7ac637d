"""The tables of who can send what to whom."""

from __future__ import annotations

from handbook.compatibility import MATRIX, Fate, Thing, cell, details, nodes, overview
from tests.support.documents import page

WHO = {"pterodactyl": "Pterodactyl's", "pelican": "Pelican's", "calagopus": "Calagopus'"}


def test_the_small_table_has_each_cell() -> None:
    head, _, *rows = [line.strip("| ").split(" | ") for line in overview().splitlines()]
    assert head == ["from", "to", *(thing.value for thing in Thing)]
    assert len(rows) == len(MATRIX)
    for (family, way), row in zip(MATRIX, rows, strict=True):
        pair = [f"{WHO[family]} nodes", "wingsd"]
        assert row[:2] == (pair if way.value == "receive" else pair[::-1])
        assert row[2:] == [cell(family, way, thing).fate.value for thing in Thing]


def test_the_full_one_has_the_words_of_each_pair_once() -> None:
    rows = [line.strip("| ").split(" | ") for line in details().splitlines()[2:]]
    for (family, way), cells in MATRIX.items():
        for thing, its in cells.items():
            pair = nodes([(family, way)])
            words = [row[2] for row in rows if row[0] == thing.value and _names(row[1], pair)]
            assert words == ([its.words] if its.words else [])


def _names(shown: str, pair: str) -> bool:
    """Return whether `from P, PE; to C` has such a pair as `from PE`."""
    preposition, letter = pair.split(" ")
    found = (each.split(" ", 1) for each in shown.split("; "))
    return any(each == preposition and letter in letters.split(", ") for each, letters in found)


def test_only_what_goes_has_words_and_parts_and_only_what_fails_has_a_reason() -> None:
    for cells in MATRIX.values():
        for its in cells.values():
            assert bool(its.words) == (its.fate in (Fate.ARRIVES, Fate.SKIPPED))
            assert bool(its.reason) == (its.fate is Fate.FAILS)
            assert its.parts or its.fate in (Fate.NONE, Fate.FAILS)


def test_the_page_has_the_small_one_and_says_what_its_words_mean() -> None:
    text = page("docs/families.md").text
    assert overview() in text
    for fate in Fate:
        assert fate is Fate.ARRIVES or f"*{fate.value}*:" in text
