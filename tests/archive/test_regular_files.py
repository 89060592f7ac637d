"""Archives rewritten for nodes in Go, which restore regular files alone."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.archive.test_sparse import compressed, write
from tests.support.archives import END, member
from tests.support.go import GoRestoreFailed, restore_as_go
from wingsd.archive.compress import Compression
from wingsd.archive.regular_files import NotKept, RegularFiles, has_only_files
from wingsd.errors import ArchiveError

pytestmark = pytest.mark.promise("backups-suit-the-destination")

MIB = 1 << 20


class Stored:
    """An archive that counts how often it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.readings = 0

    def __call__(self) -> Generator[bytes, None, None]:
        self.readings += 1
        for at in range(0, len(self.data), 10_000):
            yield self.data[at : at + 10_000]


def packed(tree: Path) -> Stored:
    """Pack a tree as a backup of it is."""
    return Stored(bytes(compressed(tree).archive))


def rewritten(stored: Stored, limit: int | None = None) -> tuple[bytes, RegularFiles]:
    files = RegularFiles(stored, limit)
    with files.packed(Compression.BEST_SPEED) as blocks:
        return b"".join(blocks), files


def restored(archive: bytes, at: Path) -> Path:
    """Restore an archive as a node in Go does."""
    root = at / "restored"
    root.mkdir()
    path = at / "restored.tar.gz"
    path.write_bytes(archive)
    restore_as_go(path, root)
    return root


def contents(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return the files below a directory: their content, mode and time."""
    return {
        str(path.relative_to(root)): (
            path.read_bytes(),
            stat.S_IMODE(path.stat().st_mode),
            int(path.stat().st_mtime),
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "world" / "region").mkdir(parents=True)
    (made / "empty" / "inner").mkdir(parents=True)
    (made / "private").mkdir(0o700)
    (made / "only-links").mkdir()
    (made / "server.jar").write_bytes(os.urandom(3 * MIB))
    (made / "start.sh").write_bytes(b"#!/bin/sh\n")
    (made / "start.sh").chmod(0o755)
    (made / "nothing").touch()
    (made / ("n" * 150)).write_bytes(b"long name")
    (made / "private" / "日本").write_bytes(b"name")
    (made / "world" / "large").write_bytes(os.urandom(5 * MIB))
    write(made / "world" / "holes", 40 * MIB, (9 * MIB, b"x" * 300_000), (30 * MIB, b"y"))
    write(made / "world" / "hole", 8 * MIB)
    os.utime(made / "start.sh", (1_500_000_000, 1_500_000_000))
    os.link(made / "start.sh", made / "only-links" / "a")
    os.link(made / "start.sh", made / "world" / "b")
    for number in range(3):
        os.link(made / "world" / "large", made / "world" / "region" / str(number))
    os.link(made / "world" / "holes", made / "zzz")
    (made / "latest").symlink_to("world")
    (made / "broken").symlink_to("nowhere")
    return made


def test_a_node_in_go_restores_no_backup_as_it_is_stored(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(GoRestoreFailed, match="is a directory"):
        restored(packed(tree).data, tmp_path)


def test_it_restores_every_file_of_the_other_form(tree: Path, tmp_path: Path) -> None:
    stored = packed(tree)
    assert not has_only_files(stored())
    archive, files = rewritten(stored)
    assert contents(restored(archive, tmp_path)) == contents(tree)
    large, holes, small = 3 * 5 * MIB, 40 * MIB, 2 * 10
    assert files.not_kept == NotKept(
        copies=6,
        copied_bytes=large + holes + small,
        symlinks=2,
        empty_directories=2,
        directory_modes=1,
    )
    assert str(files.not_kept) == (
        "6 hard links as whole copies (55.0 MiB more), without 2 symlinks, 2 empty directories, "
        "the mode of 1 directory"
    )
    # Small files once more, and each further copy of a large one.
    assert stored.readings - 1 == 1 + 3
    assert has_only_files(iter([archive]))
    again, files = rewritten(Stored(archive))
    assert (gzip.decompress(again), str(files.not_kept)) == (gzip.decompress(archive), "")


def test_extended_attributes_of_other_archives_are_in_no_ones_way(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        told = tarfile.TarInfo("a")
        told.size, told.pax_headers = 2, {"SCHILY.xattr.user.x": "1", "mtime": "1500000000.5"}
        tar.addfile(told, io.BytesIO(b"ab"))
        link = tarfile.TarInfo("./dir/b")
        link.type, link.linkname = tarfile.LNKTYPE, "./a"
        tar.addfile(link)
    archive, _ = rewritten(Stored(data.getvalue()))
    assert {name: found[0] for name, found in contents(restored(archive, tmp_path)).items()} == {
        "a": b"ab",
        "dir/b": b"ab",
    }


def test_links_that_cannot_be_copied_are_counted() -> None:
    plain = b"".join(
        (
            member(b"link", typeflag=b"2", link=b"a"),
            member(b"a", b"1234"),
            member(b"to-link", typeflag=b"1", link=b"link"),
            member(b"to-nothing", typeflag=b"1", link=b"gone"),
            member(b"first", typeflag=b"1", link=b"a"),
            member(b"second", typeflag=b"1", link=b"a"),
            member(b"fifo", typeflag=b"6"),
            END,
        )
    )
    # Four bytes are left of the limit: one copy.
    archive, files = rewritten(Stored(plain), limit=8)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["a", "first"]
    kept = NotKept(copies=1, copied_bytes=4, hard_links=3, symlinks=1, others=1)
    assert files.not_kept == kept


def test_many_holes_are_written_as_zeros(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    write(tmp_path / "tree" / "f", 4 * MIB, (MIB, b"a"), (2 * MIB, b"b"), (3 * MIB, b"c"))
    stored = packed(tmp_path / "tree")
    monkeypatch.setattr("wingsd.archive.regular_files._MAX_SEGMENTS", 2)
    archive, _ = rewritten(stored)
    assert b"GNU.sparse" not in gzip.decompress(archive)
    assert contents(restored(archive, tmp_path)) == contents(tmp_path / "tree")


def test_a_damaged_archive_has_no_other_form(tree: Path) -> None:
    whole = packed(tree).data
    for cut in (1, 5000):
        with pytest.raises(ArchiveError):
            rewritten(Stored(whole[:-cut]))
