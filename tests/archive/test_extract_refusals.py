"""Archives as an attacker would write them; tests/archive/hostile/ has many more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.packing import unpack
from tests.support.archives import END, header, member, pax
from wingsd.archive.errors import ArchiveError
from wingsd.errors import StorageError


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_bytes(b"precious")
    yield place
    assert os.listdir(place) == ["victim"]
    assert (place / "victim").read_bytes() == b"precious"
    assert (place / "victim").stat().st_nlink == 1
    assert set(os.listdir(tmp_path)) <= {"outside", "out"}


def symlink(name: bytes, text: bytes) -> bytes:
    return member(name, typeflag=b"2", link=text)


def hard_link(name: bytes, target: bytes) -> bytes:
    return member(name, typeflag=b"1", link=target)


HOSTILE = {
    "upwards": member(b"../outside/victim", b"evil"),
    "upwards inside": member(b"a/../../outside/victim", b"evil"),
    "upwards by pax": pax((b"path", b"../outside/victim")) + member(b"f", b"evil"),
    "upwards by long name": member(b"x", b"../outside/victim\0", b"L") + member(b"f", b"evil"),
    "upwards directory": member(b"../outside/d/", typeflag=b"5"),
    "upwards symlink": symlink(b"../outside/s", b"x"),
    "upwards prefix": member(b"victim", b"evil", prefix=b"../outside"),
    "absolute": member(b"/tmp/wingsd-evil", b"evil"),
    "through a symlink": symlink(b"s", b"../outside") + member(b"s/victim", b"evil"),
    "through a symlink again": symlink(b"s", b"../outside") + member(b"s/d/", typeflag=b"5"),
    "through two symlinks": symlink(b"a", b"..") + symlink(b"b", b"a/outside") + member(b"b/x"),
    "through an absolute symlink": symlink(b"s", b"/tmp") + member(b"s/wingsd-evil", b"evil"),
    "hard link outside": hard_link(b"h", b"../outside/victim") + member(b"h", b"evil"),
    "hard link absolute": hard_link(b"h", b"/etc/passwd"),
    "hard link through": symlink(b"s", b"../outside") + hard_link(b"h", b"s/victim"),
    "hard link to nothing": hard_link(b"h", b"nothing"),
    "hard link to empty": hard_link(b"h", b""),
    "directory becomes symlink": member(b"d/", typeflag=b"5") + symlink(b"d", b"../outside"),
    "directory becomes file": member(b"d/f") + member(b"d"),
    "the root becomes a file": member(b".", b"evil"),
    "the root becomes a symlink": symlink(b"./", b"../outside"),
    "empty symlink": symlink(b"s", b""),
    "NUL in a symlink": pax((b"linkpath", b"a\0b")) + symlink(b"s", b"x"),
    "NUL in a name": pax((b"path", b"a\0b")) + member(b"f"),
    "multi-volume": member(b"f", b"x", b"M"),
    "unknown type": member(b"f", b"x", b"Z"),
    "wrong checksum": header(b"f", checksum=4711),
    "negative size": header(b"f", size=b"\xff" * 12),
    "huge size": header(b"f", size=b"\x80" + b"\xff" * 11),
    "size beyond": member(b"f", b"x", size=10**6),
    "sparse beyond": pax((b"GNU.sparse.size", b"1"), (b"GNU.sparse.map", b"9,1"))
    + member(b"f", b"x"),
    "far future": pax((b"mtime", b"9" * 15)) + member(b"f"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, outside: Path, name: str) -> None:
    with pytest.raises(ArchiveError):
        unpack(HOSTILE[name] + END, tmp_path / "out")


def test_a_symlink_replaced_by_a_file_leads_nowhere(tmp_path: Path, outside: Path) -> None:
    archive = symlink(b"s", b"../outside/victim") + member(b"s", b"mine") + END
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/s").read_bytes() == b"mine"


def test_a_directory_in_a_symlinks_place(tmp_path: Path, outside: Path) -> None:
    archive = symlink(b"s", b"../outside") + member(b"s/", typeflag=b"5") + member(b"s/f", b"x")
    unpack(archive + END, tmp_path / "out")
    assert (tmp_path / "out/s/f").read_bytes() == b"x"


def test_a_huge_sparse_file_costs_nothing_or_is_refused(tmp_path: Path) -> None:
    size = b"%d" % (2**63 - 1)
    archive = pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", size + b",0")) + member(b"f")
    with pytest.raises(StorageError, match=r'"f".*larger than the file system'):
        unpack(archive + END, tmp_path / "out")
