"""The past that a history has, as a directory: its paths, links and copies."""

from __future__ import annotations

import os
import stat
import tracemalloc
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.history.test_store import LONG, long_paths
from tests.history.worlds import Model, model
from wingsd.errors import (
    DirectoryMissing,
    DiskLimitExceeded,
    FileMissing,
    FileTypeRefused,
    FileWorkCancelled,
    IsDirectory,
    PastInUse,
    PastUnreadable,
    WingsdError,
)
from wingsd.filesystem.openers import MAX_LINKS
from wingsd.filesystem.paths import ServerPath
from wingsd.histories import past as past_module
from wingsd.histories.past import HistoryPast, OpenCopies, point_names
from wingsd.history.format import Point, PointLabel
from wingsd.history.reading import Found, PastFiles

_SECOND = 1_000_000_000
FREE = SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=1000)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    with model(tmp_path, 1) as made:
        yield made


class Reader:
    """Reads the past of a history whose clock says anything."""

    def __init__(self, history: Model, **options: Any) -> None:
        usual: dict[str, Any] = {"owner": (1, 2), "reserve": 0, "cancelled": lambda: False}
        usual["copies"] = OpenCopies()
        self.past = HistoryPast(history.store, **usual | options)
        listed = self.past.directory(ServerPath((b".history",)))
        #: The names of the points, the newest first.
        self.points = [each.name for each in listed.entries()]

    def path(self, text: bytes, point: int = 0) -> ServerPath:
        return ServerPath((b".history", self.points[point], *filter(None, text.split(b"/"))))

    def read(self, text: bytes, point: int = 0) -> bytes:
        with self.past.open_file(self.path(text, point)) as file:
            return file.read_at(0, 1 << 20)

    def names(self, text: bytes, point: int = 0) -> set[bytes]:
        return {each.name for each in self.past.directory(self.path(text, point)).entries()}


def point(number: int, time: int) -> Point:
    return Point(number, time, PointLabel.RUNNING, b"", 0, 0)


def test_no_name_of_a_point_is_that_of_another_one() -> None:
    """Not when others of the same minute have come, or gone, either."""
    points = [point(11, 9 * _SECOND), point(4, 8 * _SECOND), point(3, 8 * _SECOND), point(1, 0)]
    names = point_names(points)
    assert [*names.values()] == points
    for each in points:
        ((name, _),) = point_names([each]).items()
        assert names[name] is each
        assert name.endswith(b" (%d)" % each.number)
        # No character that Windows forbids.
        assert not set(name) & set(b'<>:"/\\|?*')


def test_entries_are_those_of_the_server_at_the_point(history: Model) -> None:
    root = history.world.root
    (root / "d").mkdir()
    (root / "d/file").write_bytes(b"one")
    (root / "d/file").chmod(0o640)
    os.utime(root / "d/file", ns=(5, 7))
    os.link(root / "d/file", root / "d/name")
    os.symlink("file", root / "d/link")
    history.make()
    (root / "d/file").write_bytes(b"other")
    history.make()
    reader = Reader(history)
    assert len(reader.points) == 2
    assert reader.names(b"d", 1) == {b"file", b"name", b"link"}
    entry = reader.past.stat(reader.path(b"d/file", 1))
    assert (entry.mode, entry.size, entry.modified) == (stat.S_IFREG | 0o640, 3, 7)
    assert (entry.uid, entry.gid, entry.is_virtual) == (1, 2, True)
    found = {each.name: each for each in reader.past.directory(reader.path(b"d", 1)).entries()}
    assert found[b"name"] == entry._replace(name=b"name")
    assert found[b"link"].is_symlink
    assert reader.past.link_text(reader.path(b"d/link")) == b"file"
    assert (reader.read(b"d/name", 1), reader.read(b"d/name")) == (b"one", b"other")
    below = {
        bytes(path): entry.size
        for path, entry, *_ in reader.past.tree(reader.path(b"d", 1), lambda: False)
    }
    top = bytes(reader.path(b"d", 1))
    assert below == {top + b"/file": 3, top + b"/link": 4, top + b"/name": 3}


def test_links_lead_where_they_did_and_never_out_of_the_point(history: Model) -> None:
    root = history.world.root
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"1")
    links = {
        "inside": "a/b",
        "a/up": "../a/./b/../b",
        "through": "inside/../b",
        "out": "..",
        "far": "../../../../../etc",
        "absolute": "/etc",
        "self": "self",
        "file": "a/b/file",
    }
    for name, text in links.items():
        os.symlink(text, root / name)
    for number in range(200):
        (root / f"d{number}").mkdir()
    os.symlink("/".join(f"d{number}/.." for number in range(200)), root / "slow")
    for number in range(MAX_LINKS + 2):
        os.symlink(f"chain{number + 1}", root / f"chain{number}")
    history.make()
    reader = Reader(history)
    # "inside/../b" is "b" of the directory that "inside" leads to: as the kernel has it.
    for path in (b"inside/file", b"a/up/file", b"through/file"):
        assert reader.read(path) == b"1"
        real = reader.past.real_path(reader.path(path))
        assert real == reader.path(b"a/b/file")
    missing = (b"out/x", b"far/passwd", b"absolute/passwd", b"self/x", b"chain0/x", b"slow/x")
    for path in (*missing, b"no/x"):
        with pytest.raises(FileMissing):
            reader.read(path)
    for path in (b"inside", b"file", b"self"):
        with pytest.raises(FileTypeRefused):
            reader.read(path)
        with pytest.raises(DirectoryMissing):
            reader.past.directory(reader.path(path))
    for path in (b"", b"a"):
        with pytest.raises(IsDirectory):
            reader.read(path)
    assert reader.past.real_path(reader.path(b"inside/no/x")) == reader.path(b"a/b/no/x")


def test_a_copy_is_kept_while_points_are_made_and_removed(history: Model) -> None:
    file = history.world.root / "file"
    file.write_bytes(b"1" * 100_000)
    history.make()
    file.write_bytes(b"2" * 100_000)
    history.make()
    reader = Reader(history)
    opened = [reader.past.open_file(reader.path(b"file", each)) for each in (0, 1)]
    file.write_bytes(b"3")
    history.make()
    history.store.remove(1)
    for each, content in zip(opened, (b"2", b"1"), strict=True):
        with each:
            assert each.read_at(0, 1 << 20) == content * 100_000
            assert each.stat() == each.entry


def test_what_cannot_be_read_is_said(history: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    (history.world.root / "file").write_bytes(b"1")
    (history.world.root / "good").write_bytes(b"2")
    history.make()
    tree = history.directory / "history/tree"
    (tree / "file").write_bytes(b"x")
    reader = Reader(history)
    with pytest.raises(PastUnreadable, match="digest"):
        reader.read(b"file")
    assert reader.read(b"good") == b"2"
    with pytest.raises(FileWorkCancelled):
        Reader(history, cancelled=lambda: True).read(b"good")
    monkeypatch.setattr(os, "fstatvfs", lambda fd: FREE)
    with pytest.raises(DiskLimitExceeded):
        Reader(history, reserve=1).read(b"good")
    unknown = ServerPath((b".history", b"2000-01-01 00.00 (1)", b"good"))
    with pytest.raises(WingsdError):
        reader.past.open_file(unknown)


def test_copies_of_one_server_take_a_part_of_the_free_space_together(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = history.world.root
    (root / "large").write_bytes(b"1" * 600_000)
    (root / "file").write_bytes(b"2" * 100_000)
    history.make()
    copies = OpenCopies()
    reader = Reader(history, copies=copies)
    large, file = reader.path(b"large"), reader.path(b"file")
    free = SimpleNamespace(f_bavail=1000, f_frsize=4096, f_blocks=2000)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: free)
    # One of any size is read, and no other one beside it.
    with reader.past.open_file(large), pytest.raises(PastInUse):
        reader.past.open_file(file)
    with reader.past.open_file(file) as first, reader.past.open_file(file) as second:
        with pytest.raises(PastInUse):
            reader.past.open_file(large)
        assert first.read_at(0, 1) == second.read_at(0, 1) == b"2"
    # Those of other servers do not count, up to half of the space.
    other = copies.begin("another history")
    other.size = 1_000_000
    with reader.past.open_file(large) as opened:
        assert opened.entry.size == 600_000
        other.size = 1_500_000
        with pytest.raises(PastInUse):
            reader.past.open_file(file)
    copies.end(other)
    (history.directory / "history/tree/large").write_bytes(b"x" * 600_000)
    with pytest.raises(PastUnreadable):
        reader.past.open_file(large)
    with reader.past.open_file(file), reader.past.open_file(file):
        pass


def test_a_directory_of_many_links_takes_little_memory(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_paths(history, 100)
    links = history.world.root / "o"
    links.mkdir()
    first = os.open(history.world.root, os.O_RDONLY)
    for name in LONG.split("/"):
        below = os.open(name, os.O_RDONLY, dir_fd=first)
        os.close(first)
        first = below
    for number in range(1500):
        os.link(str(number % 100), links / str(number), src_dir_fd=first)
    os.close(first)
    history.store.make(history.source, PointLabel.STOPPED)
    past = Reader(history)
    monkeypatch.setattr(past_module, "_LINK_BYTES", 200_000)
    tracemalloc.start()
    try:
        found = [each.name for each in past.past.directory(past.path(b"o")).entries()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted(found) == sorted(b"%d" % number for number in range(1500))
    assert peak < 3_000_000


def test_a_tree_of_many_links_is_read_by_few_looks(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = history.world.root
    (root / "d").mkdir()
    for number in range(30):
        (root / f"{number}").write_bytes(b"%d" % number)
        os.link(root / f"{number}", root / f"d/{number}")
    history.make()
    reader = Reader(history)
    looks: list[int] = []
    before = PastFiles.all_found

    def noted(self: PastFiles, paths: Collection[bytes]) -> Mapping[bytes, Found]:
        looks.append(len(paths))
        return before(self, paths)

    monkeypatch.setattr(PastFiles, "all_found", noted)
    into = os.memfd_create("copy")
    found = {}
    for path, entry, _, write in reader.past.tree(reader.path(b""), lambda: False):
        if entry.is_directory:
            continue
        os.ftruncate(into, 0)
        write(into)
        found[bytes(ServerPath(path.parts[2:]))] = os.pread(into, 9, 0)
    os.close(into)
    expected = {name: name for name in (b"%d" % number for number in range(30))}
    assert found == expected | {b"d/" + name: name for name in expected}
    assert looks == [30]
