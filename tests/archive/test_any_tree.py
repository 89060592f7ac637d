"""Any tree comes out as it was packed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.archive.packing import packed, unpacked
from tests.support.archives import seen
from wingsd.archive.compress import Compression
from wingsd.filesystem.walk import measure

pytestmark = pytest.mark.root

leaf = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text("aé\n. ", min_size=1, max_size=100).map(str.encode),
).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name) and len(name) <= 255)
where = st.integers(0, 10**6)
when = st.integers(-(2**31) * 10**9, 2**33 * 10**9)
mode = st.integers(0, 0o1777)
step = st.one_of(
    st.tuples(st.just("file"), where, leaf, mode, when, st.binary(max_size=1200)),
    st.tuples(st.just("directory"), where, leaf, mode, when, st.just(b"")),
    st.tuples(st.just("symlink"), where, leaf, st.just(0), when, leaf),
    st.tuples(st.just("hard link"), where, leaf, st.just(0), when, st.just(b"")),
)


def grow(root: bytes, steps: list[tuple[str, int, bytes, int, int, bytes]]) -> None:
    """Make a tree, each step somewhere in what the steps before made."""
    directories, files = [root], []
    dressed: list[tuple[bytes, int, int]] = []
    for kind, number, name, mode_, mtime, data in steps:
        path = os.path.join(directories[number % len(directories)], name)
        if os.path.lexists(path):
            continue
        if kind == "file":
            with open(path, "wb") as file:
                file.write(data)
            files.append(path)
        elif kind == "directory":
            os.mkdir(path)
            directories.append(path)
        elif kind == "symlink":
            os.symlink(data, path)
        elif files:
            os.link(files[number % len(files)], path)
            continue
        else:
            continue
        dressed.append((path, mode_, mtime))
    for path, mode_, mtime in reversed(dressed):
        if not os.path.islink(path):
            os.chmod(path, mode_)
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=14))
def test_any_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, bytes, int, int, bytes]],
) -> None:
    place = tmp_path_factory.mktemp("any")
    (place / "t").mkdir()
    grow(os.fsencode(place / "t"), steps)
    sent = packed(place / "t", compression=Compression.BEST_SPEED)
    unpacked(sent, place / "out")
    assert seen(place / "out", owner=False) == seen(place / "t", owner=False)
    assert sent.progress[-1] == measure(str(place / "t"))
    assert sent.notes == []
