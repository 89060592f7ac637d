"""What backups leave out: git's own rules, and where the list comes from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.packing import packed, unpacked
from wingsd.archive.policy import MAX_DEPTH
from wingsd.backups.creation import MAX_IGNORE_FILE, IgnoreList, ignore_lines
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.errors import MemberRefused, TreeTooLarge
from wingsd.files.denylist import Denylist
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import opened, walk

FILES = (
    "server.jar",
    "logs/latest.log",
    "logs/old/2024.log.gz",
    "world/level.dat",
    "world/region/r.0.0.mca",
    "world/playerdata/a.dat",
    "world_nether/level.dat",
    "plugins/a.jar",
    "plugins/A/config.yml",
    "plugins/A/cache/x.tmp",
    "deep/a/b/c/d.txt",
    "cache",
    "a b.txt",
    " leading.txt",
    "#hash",
    "!bang",
    "日本/名前.txt",
    ".hidden/file",
    "back\\slash",
)
#: Lists, with what the documents of git and the eggs of Panels have.
LISTS = (
    "*.log",
    "logs/",
    "logs",
    "/logs",
    "logs/*",
    "*.jar\n!server.jar",
    "/*\n!/world/",
    "*\n!world/",
    "*\n!*/\n!*.dat",
    "/*\n!/plugins/\n/plugins/*\n!/plugins/A/",
    "**/cache",
    "**/cache/",
    "cache",
    "cache/",
    "deep/**/d.txt",
    "deep/**",
    "deep/*/c",
    "world*",
    "world?nether",
    "[a-c]*",
    "[!w]*",
    "# a comment\n\n*.gz   \n",
    "\\#hash",
    "\\!bang",
    "a\\ b.txt",
    "a b.txt",
    " leading.txt",
    "日本",
    "名前.txt",
    "*.txt\n!名前.txt",
    ".hidden",
    "world/\n!world/level.dat",
    "world/*\n!world/level.dat",
    "*.mca\r\n*.dat\r",
    "/world/region",
    "region/",
    "b/c",
    "!*.log\n*.log",
    "/",
    "*/",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tree")
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    for name in FILES:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return home


def kept(home: Path, text: str) -> list[str]:
    """Return the files that a backup with this list has."""
    ignore = IgnoreList(Denylist(text.splitlines(), "a list", exact=True), Denylist())
    found = []
    with opened(str(home)) as root:
        for listing in walk(root, lambda name, why: None, ignore.select):
            found += [os.fsdecode(listing.prefix + name) for name in listing.files]
    return sorted(name for name in found if not name.startswith(".git/"))


@pytest.mark.parametrize("text", LISTS)
def test_a_list_means_what_it_means_to_git(tree: Path, text: str) -> None:
    (tree / ".git/info/exclude").write_text("\n".join(text.splitlines()) + "\n")
    command = ["git", "-C", str(tree), "check-ignore", "--no-index", "-z", "--stdin"]
    given = "\0".join(FILES).encode()
    found = subprocess.run(command, input=given, capture_output=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    ignored = {os.fsdecode(name) for name in found.stdout.split(b"\0") if name}
    assert kept(tree, text) == sorted(set(FILES) - ignored)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ServerRoot]:
    with ServerRoot(str(tmp_path), directory_opener("auto")) as made:
        yield made


def test_the_list_of_the_panel_comes_before_the_servers_own(
    root: ServerRoot, tmp_path: Path
) -> None:
    (tmp_path / ".pteroignore").write_text("own\n")
    assert ignore_lines(root, "a\nb", PTERODACTYL, pytest.fail) == ("a", "b")
    assert ignore_lines(root, " \n", PTERODACTYL, pytest.fail) == ("own",)


@pytest.mark.parametrize(
    ("family", "expected"),
    [(PTERODACTYL, ("p",)), (PELICAN, ("pe",)), (CALAGOPUS, ("p", "pe"))],
)
def test_each_family_has_its_own_file(
    root: ServerRoot, tmp_path: Path, family: str, expected: tuple[str, ...]
) -> None:
    assert ignore_lines(root, "", family, pytest.fail) == ()
    (tmp_path / ".pteroignore").write_text("p\n")
    (tmp_path / ".pelicanignore").write_text("pe")
    assert ignore_lines(root, "", family, pytest.fail) == expected


@pytest.mark.promise("bad-ignore-file-is-skipped")
def test_a_file_that_cannot_be_a_list_is_not_read_and_named(
    root: ServerRoot, tmp_path: Path
) -> None:
    ignore = tmp_path / ".pteroignore"
    (tmp_path / ".pelicanignore").write_text("pe")
    for make in (
        lambda: ignore.symlink_to("/etc/passwd"),
        ignore.mkdir,
        lambda: os.mkfifo(ignore),
        lambda: ignore.write_bytes(bytes(MAX_IGNORE_FILE + 1)),
        lambda: ignore.write_bytes(bytes(10 << 20)),
    ):
        make()
        unused: list[str] = []
        assert ignore_lines(root, "", CALAGOPUS, unused.append) == ("pe",)
        (line,) = unused
        assert line.startswith(".pteroignore ")
        ignore.rmdir() if ignore.is_dir() and not ignore.is_symlink() else ignore.unlink()
    ignore.write_bytes(b"a\n".ljust(MAX_IGNORE_FILE, b"#"))
    assert len(ignore_lines(root, "", PTERODACTYL, pytest.fail)) == 2


def test_files_that_are_being_uploaded_are_left_out(tmp_path: Path) -> None:
    (tmp_path / f".wingsd-{'0' * 32}.part").write_text("half")
    (tmp_path / "whole").write_text("whole")
    assert kept(tmp_path, "") == ["whole"]


def test_what_is_left_out_is_counted(tree: Path) -> None:
    ignore = IgnoreList(Denylist(["/world/", "*.jar"]), Denylist(["*.gz"]))
    with opened(str(tree)) as root:
        for _ in walk(root, lambda name, why: None, ignore.select):
            pass
    assert ignore.dropped == 4


@pytest.mark.promise("unrestorable-backup-is-refused")
def test_what_is_so_deep_that_it_could_not_be_restored_is_refused_unless_it_is_ignored(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    deepest = home.joinpath("top", *["d"] * (MAX_DEPTH - 2))
    deepest.mkdir(parents=True)
    (deepest / "file").write_text("deep")
    assert len(kept(home, "")) == 1
    unpacked(packed(home), tmp_path / "restored")
    (deepest / "d").mkdir()
    (deepest / "d/file").write_text("deeper")
    with pytest.raises(MemberRefused):
        unpacked(packed(home), tmp_path / "refused")
    with pytest.raises(TreeTooLarge, match=f"more than {MAX_DEPTH} directories"):
        kept(home, "")
    assert kept(home, "/top/") == []
