"""File systems that are mounted in a server's directory. As root, who can mount them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.archives import run
from wingsd.errors import DiskLimitExceeded, PathInvalid
from wingsd.filesystem.new_file import NewFileOptions
from wingsd.filesystem.openers import Openat2Opener, OpenatOpener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter

pytestmark = pytest.mark.root

p = ServerPath.parse


@pytest.fixture
def mounted(home: Path) -> Iterator[Path]:
    """A small file system in the server's directory."""
    place = home / "top/mounted"
    place.mkdir(parents=True)
    with ExitStack() as cleanup:
        run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place))
        cleanup.callback(run, "umount", str(place))
        (place / "file").write_text("kept")
        yield place


@pytest.mark.promise("deletion-is-bounded")
def test_a_mounted_file_system_is_used_and_not_deleted(root: ServerRoot, mounted: Path) -> None:
    with root.open_file(p("top/mounted/file")) as file:
        assert file.read(9) == b"kept"
    for path in ("top", "top/mounted"):
        with pytest.raises(PathInvalid) as caught:
            root.remove(p(path))
        assert caught.value.message == "Cannot perform that action: a mount point is not deleted."
    assert (mounted / "file").read_text() == "kept"
    with pytest.raises(PathInvalid, match="another file system"):
        root.rename(p("top/mounted/file"), p("file"))
    root.copy(p("top/mounted/file"), p("file"))
    root.remove(p("top/mounted/file"))
    assert os.listdir(mounted) == []


def test_a_directory_that_is_bound_is_not_deleted_by_openat2(home: Path, outside: Path) -> None:
    place = home / "top/bound"
    place.mkdir(parents=True)
    with ExitStack() as cleanup, ServerRoot(str(home), Openat2Opener()) as root:
        run("mount", "--bind", str(outside), str(place))
        cleanup.callback(run, "umount", str(place))
        with pytest.raises(PathInvalid):
            root.remove(p("top"))
    assert os.listdir(outside) == ["secret"]


@pytest.mark.promise("files-are-old-or-new")
@pytest.mark.parametrize("options", [NewFileOptions(), NewFileOptions(size=100_000)])
def test_a_full_disk_is_told_and_nothing_is_left(
    home: Path, mounted: Path, options: NewFileOptions
) -> None:
    usage = UsageCounter(used=0)
    with ServerRoot(str(home), OpenatOpener(), None, usage) as root:
        with pytest.raises(DiskLimitExceeded) as caught:
            root.write(p("top/mounted/file"), [bytes(100_000)], options)
        assert "the disk is full" in caught.value.detail
    assert (os.listdir(mounted), usage.used) == (["file"], 0)
    assert (mounted / "file").read_text() == "kept"
