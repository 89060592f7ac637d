"""What a process finds out about itself, as root and as somebody else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wingsd.app.daemon import CHOWN, DAC_OVERRIDE, FOWNER, Facts, survey
from wingsd.config import Config, SystemConfig

pytestmark = [pytest.mark.root, pytest.mark.promise("missing-privileges-are-logged")]

NOBODY = 4711
# All is imported before: whoever it becomes may not be able to read the interpreter's files.
SURVEY = """
import json, os, sys
import attrs
from wingsd.config import Config, SystemConfig
from wingsd.app.daemon import survey
os.setgroups([int(group) for group in sys.argv[5:]])
os.setresgid(4711, 4711, 4711)
os.setresuid(4711, 4711, 4711)
root, data, backups, engine = sys.argv[1:5]
system = SystemConfig(root_directory=root, data=data, backup_directory=backups)
config = Config("id", "token", "https://p.invalid", system=system)
print(json.dumps(attrs.asdict(survey(config, (988, 988), engine)), default=sorted))
"""


def config(root: Path, data: Path) -> Config:
    backups = data.with_name("backups")
    system = SystemConfig(root_directory=str(root), data=str(data), backup_directory=str(backups))
    return Config("id", "token", "https://panel.invalid", system=system)


def as_nobody(root: Path, data: Path, engine: Path, *groups: int) -> dict[str, Any]:
    """Return what a process of another user, without any capability, finds."""
    backups = data.with_name("backups")
    arguments = [str(root), str(data), str(backups), f"unix://{engine}"]
    command = [sys.executable, "-c", SURVEY, *arguments]
    done = subprocess.run(
        [*command, *map(str, groups)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def test_root_may_all(tmp_path: Path) -> None:
    found = survey(config(tmp_path, tmp_path / "not" / "yet"), (1, 1), None)
    all_of_them = frozenset({CHOWN, FOWNER, DAC_OVERRIDE})
    groups = frozenset({os.getegid(), *os.getgroups()})
    assert found == Facts(0, groups, (1, 1), effective=all_of_them, inherited=all_of_them)


def test_somebody_else_may_nothing(place: Path) -> None:
    root, data = place / "root", place / "volumes"
    root.mkdir(mode=0o755)
    with closing(socket.socket(socket.AF_UNIX)) as engine:
        engine.bind(str(place / "engine.sock"))
        engine.listen()
        (place / "engine.sock").chmod(0o660)
        found = as_nobody(root, data, place / "engine.sock")
    assert (found["uid"], found["groups"]) == (NOBODY, [NOBODY])
    assert (found["effective"], found["inherited"]) == ([], [])
    assert found["engine"] == {f"unix://{place}/engine.sock": "Permission denied"}
    assert found["directories"] == {
        f"system.root_directory ({root})": "permission denied",
        f"system.data ({data})": "permission denied",
        f"system.backup_directory ({place}/backups)": "permission denied",
    }


def test_the_engines_group_and_directories_of_ones_own_are_enough(place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    with closing(socket.socket(socket.AF_UNIX)) as engine:
        engine.bind(str(place / "engine.sock"))
        engine.listen()
        (place / "engine.sock").chmod(0o660)
        os.chown(place / "engine.sock", 0, 105)
        found = as_nobody(place / "root", place / "volumes", place / "engine.sock", 105)
    assert found["groups"] == [105, NOBODY]
    assert (found["engine"], found["directories"]) == ({}, {})


def test_what_is_no_directory_and_no_engine_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = survey(config(tmp_path / "file", tmp_path), (0, 0), f"unix://{tmp_path}/no.sock")
    assert found.directories == {
        f"system.root_directory ({tmp_path}/file)": f"{tmp_path}/file is not a directory"
    }
    assert found.engine == {f"unix://{tmp_path}/no.sock": "No such file or directory"}
    # Another machine's is not asked.
    assert survey(config(tmp_path, tmp_path), (0, 0), "tcp://192.0.2.1:2375").engine == {}


def test_a_read_only_file_system_is_called_so(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    found = survey(config(place, place / "volumes"), (0, 0), None).directories
    assert [*found.values()] == ["its file system is read-only"] * 3
