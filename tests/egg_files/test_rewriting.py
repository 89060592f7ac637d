"""The whole room on a real disk: what is written, whose it is, and what is never touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.egg_files.helpers import NODE, in_process, put
from tests.support.fixtures import home
from wingsd.egg_files.process import rewrite
from wingsd.filesystem.openers import OpenatOpener
from wingsd.filesystem.root import ServerRoot
from wingsd.panel.schemas import ConfigurationFile, Replacement

__all__ = ["home"]

pytestmark = [pytest.mark.root, pytest.mark.promise("egg-files-stay-inside")]


def file(name: str, parser: str, *replacements: Replacement) -> ConfigurationFile:
    return ConfigurationFile(file=name, parser=parser, replace=replacements)


def properties(name: str, port: str = "25570") -> ConfigurationFile:
    return file(name, "properties", put("server-port", port))


def run(root: Path, *files: ConfigurationFile, owner: tuple[int, int] | None = None) -> list[str]:
    return rewrite(lambda: ServerRoot(str(root), OpenatOpener(), owner), files, NODE, in_process)


def test_several_files_one_after_the_other(home: Path) -> None:
    (home / "server.properties").write_text("# mine\nserver-port=1\n")
    lines = run(
        home,
        properties("server.properties"),
        file("config/deep/a.yml", "yaml", put("host", "{{config.docker.interface}}")),
        file("/config/b.json", "json", put("a.b", "1")),
        file("./config/../c.cfg", "file", put("a", "b")),
        file("server.properties", "file", put("# mine", "# yours")),
    )
    assert lines == []
    assert (home / "server.properties").read_text() == "# yours\nserver-port=25570\n"
    assert (home / "config/deep/a.yml").read_text() == "host: 172.18.0.1\n"
    assert (home / "config/b.json").read_text() == '{\n  "a": {\n    "b": 1\n  }\n}\n'
    assert (home / "c.cfg").read_text() == ""
    assert stat.S_IMODE((home / "config/deep").stat().st_mode) == 0o755
    assert stat.S_IMODE((home / "config/b.json").stat().st_mode) == 0o644
    assert sorted(os.listdir(home)) == ["c.cfg", "config", "server.properties"]


def test_everything_that_is_made_belongs_to_the_owner(home: Path) -> None:
    (home / "there").mkdir()
    (home / "there" / "old.properties").write_text("server-port=1\n")
    assert run(home, properties("a/b/c.properties"), owner=(12345, 23456)) == []
    assert run(home, properties("there/old.properties"), owner=(12345, 23456)) == []
    for name in ("a", "a/b", "a/b/c.properties", "there/old.properties"):
        status = (home / name).stat()
        assert (status.st_uid, status.st_gid) == (12345, 23456), name
    assert (home / "there").stat().st_uid == os.geteuid()


def test_mode_stays_without_set_id_bits(home: Path) -> None:
    path = home / "server.properties"
    path.write_text("server-port=1\n")
    path.chmod(0o4640)
    assert run(home, properties("server.properties")) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_umask_changes_nothing(home: Path) -> None:
    before = os.umask(0o077)
    try:
        assert run(home, properties("a/b.properties")) == []
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((home / "a/b.properties").stat().st_mode) == 0o644


def test_a_file_that_has_its_values_is_not_written(home: Path) -> None:
    path = home / "server.properties"
    path.write_text("server-port=25570\n")
    before = path.stat()
    assert run(home, properties("server.properties"), owner=(12345, 23456)) == []
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_uid) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_uid,
    )


def test_a_hard_link_to_another_file_is_left_alone(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "passwd"
    other.write_text("server-port=1\n")
    (home / "server.properties").hardlink_to(other)
    assert run(home, properties("server.properties"), owner=(12345, 23456)) == []
    assert other.read_text() == "server-port=1\n"
    assert other.stat().st_uid == os.geteuid()
    assert (home / "server.properties").read_text() == "server-port=25570\n"


def test_symlinks_inside_are_followed_and_stay(home: Path) -> None:
    (home / "data/config").mkdir(parents=True)
    (home / "data/config/real").write_text("server-port=1\n")
    (home / "config").symlink_to("data/config")
    (home / "data/config/up").symlink_to("../../data/./config/real")
    (home / "server.properties").symlink_to("config/up")
    (home / "new.properties").symlink_to("data/not-yet/made")
    assert run(home, properties("server.properties"), properties("new.properties")) == []
    assert (home / "data/config/real").read_text() == "server-port=25570\n"
    assert (home / "data/not-yet/made").read_text() == "server-port=25570\n"
    assert (home / "server.properties").is_symlink()
    assert (home / "new.properties").is_symlink()


@pytest.mark.parametrize(
    ("link", "target", "name", "word"),
    [
        ("a", "../outside/passwd", "a", "leads out"),
        ("a", "../outside", "a/passwd", "leads out"),
        ("d/a", "../../outside/passwd", "d/a", "leads out"),
        ("a", "d/../../outside/passwd", "a", "leads out"),
        ("a", "{outside}/passwd", "a", '"a" is a symlink to an absolute path'),
        ("d/a", "{outside}", "d/a/passwd", '"d/a" is a symlink to an absolute path'),
        ("a", "{outside}/made", "a", "absolute path"),
        ("a", "a", "a", "form a loop"),
        ("a", "d/..", "a", "names no file"),
    ],
)
def test_a_planted_symlink_leads_nowhere(
    home: Path, tmp_path: Path, link: str, target: str, name: str, word: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("server-port=1\n")
    (home / "d").mkdir()
    (home / link).symlink_to(target.format(outside=outside))
    (line,) = run(home, properties(name))
    assert word in line
    assert line.startswith(f'"{name}" is left as it was: ')
    assert os.listdir(outside) == ["passwd"]
    assert (outside / "passwd").read_text() == "server-port=1\n"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("/../outside", "leads out"),
        ("", "names no file"),
        ("/", "names no file"),
        ("a/..", "names no file"),
        ("a\0b", "zero byte"),
        ("x" * 300, "too long"),
        ("file/below", "Not a directory"),
        ("directory", "not a regular file"),
        ("fifo", "not a regular file"),
        ("socket", "not a regular file"),
        ("\ud800", "left as it was"),
    ],
)
def test_names_that_are_no_files(home: Path, tmp_path: Path, name: str, word: str) -> None:
    (home / "file").write_text("x=1\n")
    (home / "directory").mkdir()
    os.mkfifo(home / "fifo")
    os.mknod(home / "socket", stat.S_IFSOCK | 0o600)
    before = sorted(os.listdir(home))
    (line,) = run(home, properties(name))
    assert word in line
    assert line.isprintable()
    assert sorted(os.listdir(home)) == before
    assert os.listdir(tmp_path) == ["server"]


@pytest.mark.parametrize(
    ("parser", "limit"), [("file", 10240), ("xml", 10240), ("ini", 1024), ("yaml", 256)]
)
def test_a_large_file_is_left_alone(home: Path, parser: str, limit: int) -> None:
    path = home / "large"
    with path.open("wb") as large:
        large.truncate((limit << 10) + 1)
    (line,) = run(home, file("large", parser, put("a", "b")))
    assert line == f'"large" is left as it was: it is larger than {limit} KiB'
    assert path.stat().st_size == (limit << 10) + 1


def test_what_cannot_be_parsed_is_left_and_the_others_are_done(home: Path) -> None:
    (home / "bad.yml").write_text("a: [\n")
    (home / "half.json").write_text('{"a": 1, "b": 1}')
    lines = run(
        home,
        file("bad.yml", "yaml", put("a", 1)),
        file("none.csv", "csv", put("a", 1)),
        file("half.json", "json", put("a.x", 2), put("b", 2), put("c", "{{config.token}}")),
        properties("server.properties"),
    )
    assert len(lines) == 4
    assert lines[0].startswith('"bad.yml" is left as it was: it is not YAML: line 2: ')
    assert lines[1].startswith('"none.csv" is left as it was: there is no parser "csv"')
    assert lines[2].startswith('"half.json": "c": config.token cannot be read by eggs')
    assert lines[3].startswith('"half.json": "a.x": "a" is a single value')
    assert (home / "bad.yml").read_text() == "a: [\n"
    assert (home / "half.json").read_text() == '{"a": 1, "b": 2}'
    assert (home / "server.properties").read_text() == "server-port=25570\n"
    assert not (home / "none.csv").exists()


def test_no_line_has_a_value(home: Path) -> None:
    (home / "a.ini").write_text("[s]\n")
    lines = run(
        home,
        file("a.ini", "ini", put("s.k", "hunter2\nhunter2")),
        file("a.xml", "xml", put("a.b", "hunter2\x01")),
        file("a.json", "json", put("a", ["hunter2"])),
    )
    assert len(lines) == 3
    assert "hunter2" not in "".join(lines)


def test_no_root(tmp_path: Path) -> None:
    (line,) = run(tmp_path / "none", properties("a"))
    assert line.startswith("its directory could not be opened: ")
    assert "it does not exist" in line


def test_a_full_disk_leaves_only_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "server.properties").write_text("server-port=1\n")
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(28, "No space left on device")))
    (line,) = run(home, properties("server.properties"))
    assert line == '"server.properties" is left as it was: No space left on device'
    assert os.listdir(home) == ["server.properties"]
    assert (home / "server.properties").read_text() == "server-port=1\n"


def test_no_descriptor_is_left_open(home: Path) -> None:
    (home / "directory").mkdir()
    files: Sequence[ConfigurationFile] = [
        *(properties(f"{n}/a/b.properties") for n in range(80)),
        properties("../x"),
        properties("directory"),
        file("bad", "csv"),
    ]
    before = len(os.listdir("/proc/self/fd"))
    assert len(run(home, *files)) == 3
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir(home)) == 81
