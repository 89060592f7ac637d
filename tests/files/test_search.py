"""Searches by name, path, size and content."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from wingsd.errors import DirectoryMissing, FileWorkCancelled
from wingsd.files import search
from wingsd.files.denylist import Denylist
from wingsd.files.search import (
    Algorithm,
    ContentFilter,
    FileFilter,
    Search,
    SearchLimits,
    fingerprint,
    name_matcher,
)
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot


@pytest.fixture
def tree(home: Path, tmp_path: Path) -> Path:
    for name, content in (
        ("server.properties", "motd=Hello\n"),
        ("logs/latest.log", "one\ntwo Needle three\n"),
        ("logs/old/2020.LOG", "needle\n"),
        ("plugins/a/config.yml", "a: 1\n"),
        ("node_modules/x/index.log", "needle\n"),
        ("world/region.mca", "\xff\xfeneedle"),
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "latin-1")
    (tmp_path / "outside.log").write_text("needle")
    (home / "out").symlink_to(tmp_path)
    (home / "link.log").symlink_to(tmp_path / "outside.log")
    os.mkfifo(home / "fifo.log")
    return home


LIMITS = SearchLimits()


def by_name(
    root: ServerRoot, pattern: str, start: str = "/", limits: SearchLimits = LIMITS
) -> list[str]:
    wanted = Search(root, ServerPath.parse(start), limits, lambda: False)
    found = wanted.by_name(name_matcher(pattern))
    return sorted(entry["name"] for entry in found)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("LATEST", ["logs/latest.log"]),
        (
            ".log",
            [
                "fifo.log",
                "link.log",
                "logs/latest.log",
                "logs/old/2020.LOG",
                "node_modules/x/index.log",
            ],
        ),
        ("*.yml", ["plugins/a/config.yml"]),
        ("20??.log", ["logs/old/2020.LOG"]),
        ("old", ["logs/old"]),
        ("nothing", []),
        ("[a-z]*", []),
    ],
)
def test_names_are_found(tree: Path, root: ServerRoot, pattern: str, expected: list[str]) -> None:
    assert by_name(root, pattern) == expected


def test_directories_are_passed_over_and_the_depth_is_limited(
    tree: Path, root: ServerRoot
) -> None:
    skipped = SearchLimits(skipped=frozenset([b"node_modules"]))
    assert "node_modules/x/index.log" not in by_name(root, ".log", limits=skipped)
    assert by_name(root, "node_modules", limits=skipped) == []
    assert by_name(root, "20??.log", limits=SearchLimits(depth=1)) == []
    assert by_name(root, "20??.log", limits=SearchLimits(depth=2)) == ["logs/old/2020.LOG"]


def test_results_are_below_the_start(tree: Path, root: ServerRoot) -> None:
    assert by_name(root, ".log", "logs") == ["latest.log", "old/2020.LOG"]
    with pytest.raises(DirectoryMissing):
        by_name(root, ".log", "missing")
    with pytest.raises(DirectoryMissing):
        by_name(root, ".log", "out")


def test_results_entries_and_time_are_limited(tree: Path, root: ServerRoot) -> None:
    assert len(by_name(root, ".log", limits=SearchLimits(results=2))) == 2
    assert len(by_name(root, ".log", limits=SearchLimits(entries=0))) == 0
    assert by_name(root, ".log", limits=SearchLimits(seconds=0)) == []


def test_a_glob_made_to_be_slow_is_matched_quickly() -> None:
    matches = name_matcher("*a" * 1000 + "b")
    begun = time.process_time()
    assert not matches("a" * 255)
    assert time.process_time() - begun < 1


def test_a_search_ends_when_the_client_has_gone(tree: Path, root: ServerRoot) -> None:
    answers: Iterator[bool] = iter([False, False, False, True])
    wanted = Search(root, ServerPath(), SearchLimits(), lambda: next(answers))
    with pytest.raises(FileWorkCancelled):
        wanted.by_name(name_matcher(".log"))


def by_content(root: ServerRoot, wanted: FileFilter, *hidden: str) -> list[str]:
    denylists = (Denylist(hidden),)
    everything = Search(root, ServerPath(), SearchLimits(), lambda: False)
    found = everything.by_content(wanted, denylists)
    return sorted(entry["name"] for entry in found)


REGULAR = [
    "logs/latest.log",
    "logs/old/2020.LOG",
    "node_modules/x/index.log",
    "plugins/a/config.yml",
    "server.properties",
    "world/region.mca",
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (FileFilter(), REGULAR),
        (FileFilter(included=Denylist(["*.yml", "/server.*"])), REGULAR[3:5]),
        (FileFilter(included=Denylist(["*.log"])), [REGULAR[0], REGULAR[2]]),
        (FileFilter(included=Denylist(["*.log"]), ignore_case=True), REGULAR[:3]),
        (FileFilter(excluded=Denylist(["logs/", "node_modules/"])), REGULAR[3:]),
        (FileFilter(sizes=range(8)), [*REGULAR[1:4]]),
        (FileFilter(content=ContentFilter(b"needle", 1000)), REGULAR[1:3]),
        (FileFilter(content=ContentFilter(b"needle", 1000, ignore_case=True)), REGULAR[:3]),
        (FileFilter(content=ContentFilter(b"needle", 5)), []),
        (
            FileFilter(content=ContentFilter(b"nothing", 7, others=True)),
            [
                "logs/latest.log",
                "server.properties",
                "world/region.mca",
            ],
        ),
        (FileFilter(content=ContentFilter(b"", 1000)), REGULAR[:5]),
        (FileFilter(part="old"), REGULAR[1:2]),
        (FileFilter(part="config", content=ContentFilter(b"motd", 1000)), REGULAR[3:5]),
    ],
)
def test_files_are_found(
    tree: Path, root: ServerRoot, wanted: FileFilter, expected: list[str]
) -> None:
    assert by_content(root, wanted) == expected


def test_denied_files_are_never_found(tree: Path, root: ServerRoot) -> None:
    wanted = FileFilter(content=ContentFilter(b"needle", 1000))
    assert by_content(root, wanted, "node_modules/") == ["logs/old/2020.LOG"]


def test_a_text_across_two_pieces_is_found(home: Path, root: ServerRoot) -> None:
    (home / "big").write_bytes(b"x" * ((256 << 10) - 3) + b"needle" + b"y" * 1000)
    assert by_content(root, FileFilter(content=ContentFilter(b"needle", 1 << 20))) == ["big"]
    assert by_content(root, FileFilter(content=ContentFilter(b"needles", 1 << 20))) == []


def test_what_is_too_deep_keeps_nothing_else_from_being_found(
    root: ServerRoot, tree: Path
) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=fd)
        child = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
        os.close(os.open("latest.log", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    limits = SearchLimits(64)
    assert len(by_name(root, "latest", limits=limits)) == 17
    found = Search(root, ServerPath(), limits, lambda: False).by_content(FileFilter(), [])
    assert "logs/latest.log" in [entry["name"] for entry in found]


@pytest.mark.promise("server-files-are-bounded")
def test_only_so_many_directories_wait_to_be_searched(
    root: ServerRoot, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        (tree / f"d{number}").mkdir()
        (tree / f"d{number}" / "wanted").touch()
    monkeypatch.setattr(search, "MAX_WAITING", 4)
    assert len(by_name(root, "wanted", limits=SearchLimits(skipped=frozenset([b"logs"])))) <= 4


def test_a_name_that_is_longer_in_lower_case_is_compared_as_it_is(
    root: ServerRoot, home: Path
) -> None:
    name = "\u0130" * 127  # two bytes each, and three in lower case
    (home / name).touch()
    wanted = FileFilter(included=Denylist(["\u0130*"]), ignore_case=True)
    found = Search(root, ServerPath(), LIMITS, lambda: False).by_content(wanted, [])
    assert [entry["name"] for entry in found] == [name]


# Fingerprints, against known ones


CONTENT = b"The quick brown fox\n" * 1000

#: Those of hashlib.
DIGESTS = [each for each in Algorithm if each.value in hashlib.algorithms_guaranteed]


def of(root: ServerRoot, algorithm: Algorithm) -> str:
    with root.open_file(ServerPath.parse("file")) as file:
        return fingerprint(file, algorithm, lambda: False)


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_digests_are_those_of_hashlib(home: Path, root: ServerRoot, algorithm: Algorithm) -> None:
    (home / "file").write_bytes(CONTENT)
    assert of(root, algorithm) == hashlib.new(algorithm.value, CONTENT).hexdigest()


def test_a_checksum_is_that_of_zlib(home: Path, root: ServerRoot) -> None:
    (home / "file").write_bytes(CONTENT)
    assert of(root, Algorithm.CRC32) == f"{zlib.crc32(CONTENT):x}"


@pytest.mark.parametrize("content", [b"", b"a", b" a\t\r\n", b"ab cd\n", b"\tabc\rde"])
def test_curseforge_leaves_whitespace_out(home: Path, root: ServerRoot, content: bytes) -> None:
    (home / "file").write_bytes(content)
    plain = b"".join(content.split())
    assert of(root, Algorithm.CURSEFORGE) == str(murmur2(plain))


def murmur2(data: bytes) -> int:
    """MurmurHash2 as its author writes it: four bytes at a time."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 1 ^ len(data)
    while len(data) >= 4:
        k = int.from_bytes(data[:4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
        data = data[4:]
    for at in range(len(data) - 1, -1, -1):
        h ^= data[at] << 8 * at
    if data:
        h = h * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ h >> 15


def test_curseforge_agrees_with_a_plain_implementation(home: Path, root: ServerRoot) -> None:
    for size in (1, 2, 3, 4, 5, 1023, 5000):
        content = bytes(33 + number % 90 for number in range(size))
        (home / "file").write_bytes(content)
        assert of(root, Algorithm.CURSEFORGE) == str(murmur2(content))


def test_the_work_ends_when_the_client_has_gone(home: Path, root: ServerRoot) -> None:
    (home / "file").write_bytes(CONTENT)
    with (
        root.open_file(ServerPath.parse("file")) as file,
        pytest.raises(FileWorkCancelled),
    ):
        fingerprint(file, Algorithm.MD5, lambda: True)
