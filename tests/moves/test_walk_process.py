"""A second process that looks at directories: what it finds is what the walk would."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.attributes import reading
from wingsd.filesystem.walk import BATCH, opened
from wingsd.moves.scan import Scan
from wingsd.moves.seen_directories import SeenDirectories, WalkFrame, frames_in
from wingsd.moves.walk_process import WalkProcess, look

PATHS = [b"a", b"a/b", b"a/b/c", b"links", b"many", b"z\xff"]
#: Those that the other process leaves to the walk.
LEFT = (b"links", b"many")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    for path in PATHS:
        place = os.path.join(os.fsencode(tmp_path), path)
        os.mkdir(place)
        for name in (b"one", b"t\xfdwo"):
            with open(os.path.join(place, name), "wb") as file:
                file.write(path)
    for number in range(BATCH):
        (tmp_path / "many" / f"{number}").touch()
    (tmp_path / "links" / "link").symlink_to("nowhere")
    (tmp_path / "a" / "linked").hardlink_to(tmp_path / "a" / "one")
    with opened(str(tmp_path)) as fd:
        yield fd


def seen_by_walk(root: int) -> SeenDirectories:
    seen = SeenDirectories()
    Scan(lambda line: None, reading(root), None, seen).run(root).store.close()
    return seen


def check(frames: dict[bytes, WalkFrame], root: int) -> None:
    seen = seen_by_walk(root)
    assert frames.keys() == set(PATHS) - set(LEFT)
    for path, frame in frames.items():
        assert frame.digest == seen.digests[path]
        assert frame.is_linked == (path in seen.linked) == (path == b"a")
        names = [b"linked"] if path == b"a" else []
        assert frame.files == [*names, b"one", b"t\xfdwo"]
    assert [list(frames[path].directories) for path in PATHS[:3]] == [[b"b"], [b"c"], []]


def test_it_finds_what_the_walk_does(root: int) -> None:
    found = BytesIO()
    look(root, [*PATHS, b"gone", b"a/one", b"links/link"], found)
    data = bytearray(found.getvalue())
    frames = {}
    arrived = bytearray()
    for at in range(0, len(data), 7):
        arrived += data[at : at + 7]
        frames.update({frame.path: frame for frame, _ in frames_in(arrived)})
    assert not arrived
    check(frames, root)
    assert next(iter(frames)) == PATHS[-1]


def test_it_is_a_process(root: int) -> None:
    process = WalkProcess(root, PATHS)
    frames: dict[bytes, WalkFrame] = {}
    try:
        while len(frames) < len(PATHS) - len(LEFT):
            for path in PATHS:
                if (frame := process.take(path)) is not None:
                    frames[path] = frame
            time.sleep(0.01)
    finally:
        process.close()
    check(frames, root)


def no_process(*arguments: object) -> NoReturn:
    raise OSError("no process can be started")


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize(
    ("name", "instead"), [("start", no_process), ("command", lambda *words: ["/bin/false"])]
)
def test_nothing_is_found_without_a_process_or_when_it_has_ended(
    root: int, monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., object]
) -> None:
    monkeypatch.setattr(f"wingsd.sandbox.launch.{name}", instead)
    process = WalkProcess(root, PATHS)
    while process._process is not None:
        assert process.take(b"a") is None
    assert process.take(b"a") is None
    process.close()
