"""A tree's order divided by borders: each name is in one span, and they are about equal."""

from __future__ import annotations

import os
import random

import pytest

from wingsd.archive import tree_range as span
from wingsd.archive.tree_range import (
    EVERYTHING,
    FILES,
    SYMLINKS,
    Borders,
    Key,
    Listing,
    Path,
    TreeRange,
    directory_key,
)

NO_STAT = os.stat_result(range(10))


def listed(tree: dict[Path, list[bytes]]) -> list[Key]:
    """Return the places of all directories and of the files in them, in the order of a walk."""
    keys = []
    for path, files in tree.items():
        keys.append(directory_key(path))
        keys += [(*directory_key(path), (FILES, name)) for name in files]
    return sorted(keys)


TREE: dict[Path, list[bytes]] = {
    (): [b"a", b"z"],
    (b"a",): [b"1", b"2"],
    (b"a", b"deep"): [b"x"],
    (b"a", b"deeper"): [],
    (b"b",): [b"0"],
}


def equal_spans(keys: list[Key], sizes: list[int], count: int) -> list[TreeRange]:
    borders = Borders()
    for key, size in zip(keys, sizes, strict=True):
        borders.add(key, size)
    return borders.spans(count)


def test_a_directory_comes_before_what_is_in_it_and_files_before_directories() -> None:
    names = ["", "a", "z", "a/", "a/1", "a/2", "a/deep/", "a/deep/x", "a/deeper/", "b/", "b/0"]
    shown = [
        b"/".join(name for _, name in key).decode()
        + ("/" if key and key[-1][0] == span.DIRECTORIES else "")
        for key in listed(TREE)
    ]
    assert shown == names


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_name_is_in_exactly_one(count: int) -> None:
    keys = listed(TREE)
    spans = equal_spans(keys, [10] * len(keys), count)
    assert len(spans) == count
    for key in keys:
        assert sum(each.holds(key) for each in spans) == 1
    # As is a name that was not there when the borders were found.
    for key in [((FILES, b"new"),), ((span.DIRECTORIES, b"a"), (SYMLINKS, b"new"))]:
        assert sum(each.holds(key) for each in spans) == 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_directory_is_entered_by_every_span_that_has_something_of_it(count: int) -> None:
    keys = listed(TREE)
    for each in equal_spans(keys, [10] * len(keys), count):
        for path in TREE:
            inside = [key for key in keys if key[: len(path)] == directory_key(path)]
            assert each.enters(path) or not any(map(each.holds, inside))


def test_of_a_listing_a_span_has_what_is_in_it() -> None:
    names = [b"%02d" % number for number in range(20)]
    whole = Listing((b"d",), -1, NO_STAT, files=names, symlinks=names, directories=names)
    above = directory_key((b"d",))
    middle = TreeRange((*above, (FILES, b"15")), (*above, (SYMLINKS, b"03x")))
    part = middle.of(whole)
    assert (part.files, part.symlinks) == (names[15:], names[:4])
    assert (part.others, part.directories) == ([], [])
    rest = TreeRange((*above, (SYMLINKS, b"03x")), (*above, (span.DIRECTORIES, b"02"))).of(whole)
    assert (rest.files, rest.symlinks) == ([], names[4:])
    assert rest.directories == names[:2]
    assert EVERYTHING.of(whole) == whole


def test_they_are_about_equal_and_always_the_same() -> None:
    rng = random.Random(7)
    keys: list[Key] = [((FILES, b"%06d" % number),) for number in range(30_000)]
    sizes = [rng.choice([0, 100, 10_000, 3_000_000]) for _ in keys]
    spans = equal_spans(keys, sizes, 5)
    assert spans == equal_spans(keys, sizes, 5)
    held = [
        sum(size for key, size in zip(keys, sizes, strict=True) if each.holds(key))
        for each in spans
    ]
    assert sum(held) == sum(sizes)
    fair = sum(sizes) / 5
    # As near as the places that are remembered, and the largest file, allow.
    allowed = 3_000_000 + 4 * sum(sizes) / span.MARKS
    assert all(abs(each - fair) <= allowed for each in held)


def test_what_is_remembered_does_not_grow_with_the_tree() -> None:
    borders = Borders()
    for number in range(50_000):
        borders.add(((FILES, b"%06d" % number),), 1000)
    assert len(borders._marks) <= span.MARKS + 1


def test_a_file_larger_than_all_else_has_a_span_of_its_own() -> None:
    keys: list[Key] = [((FILES, name),) for name in (b"a", b"b", b"c", b"d")]
    first, second, third = equal_spans(keys, [1, 1, 100, 1], 3)
    assert [key[0][1] for key in keys if second.holds(key) or third.holds(key)] == [b"c", b"d"]
    assert not any(first.holds(key) for key in keys[2:])


def test_without_anything_to_divide_the_first_span_has_all_there_may_be() -> None:
    spans = Borders().spans(3)
    assert [each.holds(()) for each in spans].count(True) == 1


def test_names_may_be_added_in_any_order() -> None:
    rng = random.Random(11)
    keys: list[Key] = [((FILES, b"%06d" % number),) for number in range(30_000)]
    for order in (keys[::-1], rng.sample(keys, len(keys))):
        spans = equal_spans(order, [1000] * len(order), 4)
        held = [sum(map(each.holds, keys)) for each in spans]
        assert sum(held) == len(keys)
        assert all(abs(each - len(keys) / 4) <= 300 for each in held)
