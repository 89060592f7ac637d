"""The ranges of a divided tree: each name is in exactly one, and they are about equally large."""

from __future__ import annotations

import os
import random

import pytest

from wingsd.archive import partition
from wingsd.archive.partition import (
    EVERYTHING,
    FILES,
    SYMLINKS,
    PartitionBuilder,
    TreeKey,
    TreeRange,
    directory_key,
)
from wingsd.filesystem.open_directories import Path
from wingsd.filesystem.walk import Listing

NO_STAT = os.stat_result(range(10))


def listed(tree: dict[Path, list[bytes]]) -> list[TreeKey]:
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


def equal_ranges(keys: list[TreeKey], sizes: list[int], count: int) -> list[TreeRange]:
    builder = PartitionBuilder()
    for key, size in zip(keys, sizes, strict=True):
        builder.add(key, size)
    return builder.ranges(count)


def test_a_directory_comes_before_what_is_in_it_and_files_before_directories() -> None:
    names = ["", "a", "z", "a/", "a/1", "a/2", "a/deep/", "a/deep/x", "a/deeper/", "b/", "b/0"]
    shown = [
        b"/".join(name for _, name in key).decode()
        + ("/" if key and key[-1][0] == partition.DIRECTORIES else "")
        for key in listed(TREE)
    ]
    assert shown == names


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_each_name_is_in_exactly_one(count: int) -> None:
    keys = listed(TREE)
    ranges = equal_ranges(keys, [10] * len(keys), count)
    assert len(ranges) == count
    for key in keys:
        assert sum(each.contains(key) for each in ranges) == 1
    # As is a name that was not there when the tree was divided.
    for key in [((FILES, b"new"),), ((partition.DIRECTORIES, b"a"), (SYMLINKS, b"new"))]:
        assert sum(each.contains(key) for each in ranges) == 1


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_directory_overlaps_every_range_that_contains_some_of_it(count: int) -> None:
    keys = listed(TREE)
    for each in equal_ranges(keys, [10] * len(keys), count):
        for path in TREE:
            inside = [key for key in keys if key[: len(path)] == directory_key(path)]
            assert each.overlaps(path) or not any(map(each.contains, inside))


def test_select_reduces_a_listing_to_the_range() -> None:
    names = [b"%02d" % number for number in range(20)]
    whole = Listing((b"d",), -1, NO_STAT, files=names, symlinks=names, directories=names)
    above = directory_key((b"d",))
    middle = TreeRange((*above, (FILES, b"15")), (*above, (SYMLINKS, b"03x")))
    part = middle.select(whole)
    assert (part.files, part.symlinks) == (names[15:], names[:4])
    assert (part.others, part.directories) == ([], [])
    rest = TreeRange(
        (*above, (SYMLINKS, b"03x")), (*above, (partition.DIRECTORIES, b"02"))
    ).select(whole)
    assert (rest.files, rest.symlinks) == ([], names[4:])
    assert rest.directories == names[:2]
    assert EVERYTHING.select(whole) == whole


def test_they_are_about_equal_and_always_the_same() -> None:
    rng = random.Random(7)
    keys: list[TreeKey] = [((FILES, b"%06d" % number),) for number in range(30_000)]
    sizes = [rng.choice([0, 100, 10_000, 3_000_000]) for _ in keys]
    ranges = equal_ranges(keys, sizes, 5)
    assert ranges == equal_ranges(keys, sizes, 5)
    held = [
        sum(size for key, size in zip(keys, sizes, strict=True) if each.contains(key))
        for each in ranges
    ]
    assert sum(held) == sum(sizes)
    fair = sum(sizes) / 5
    # As near as the places that are remembered, and the largest file, allow.
    allowed = 3_000_000 + 4 * sum(sizes) / partition.MAX_MARKS
    assert all(abs(each - fair) <= allowed for each in held)


def test_the_builder_keeps_a_bounded_number_of_marks() -> None:
    builder = PartitionBuilder()
    for number in range(50_000):
        builder.add(((FILES, b"%06d" % number),), 1000)
    assert len(builder._marks) <= partition.MAX_MARKS + 1


def test_a_file_larger_than_all_else_has_a_range_of_its_own() -> None:
    keys: list[TreeKey] = [((FILES, name),) for name in (b"a", b"b", b"c", b"d")]
    first, second, third = equal_ranges(keys, [1, 1, 100, 1], 3)
    assert [key[0][1] for key in keys if second.contains(key) or third.contains(key)] == [
        b"c",
        b"d",
    ]
    assert not any(first.contains(key) for key in keys[2:])


def test_an_empty_tree_gives_one_range_that_contains_everything() -> None:
    ranges = PartitionBuilder().ranges(3)
    assert [each.contains(()) for each in ranges].count(True) == 1


def test_names_may_be_added_in_any_order() -> None:
    rng = random.Random(11)
    keys: list[TreeKey] = [((FILES, b"%06d" % number),) for number in range(30_000)]
    for order in (keys[::-1], rng.sample(keys, len(keys))):
        ranges = equal_ranges(order, [1000] * len(order), 4)
        held = [sum(map(each.contains, keys)) for each in ranges]
        assert sum(held) == len(keys)
        assert all(abs(each - len(keys) / 4) <= 300 for each in held)
