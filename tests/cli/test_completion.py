"""Completion of the command line: the files that shells read, and what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from tests.cli.daemon import UUID, Scripted, past, running
from tests.support.command import WINGSCTL, installed
from wingsd.cli.__main__ import main

HOME = Path(__file__).parent.parent.parent / "etc" / "completion"
FILES = {"bash": "wingsctl.bash", "zsh": "_wingsctl", "fish": "wingsctl.fish"}
OTHER = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture(autouse=True)
def shells_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def shell(name: str, *words: str, **environment: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    ran = subprocess.run(
        [path, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_click_makes(name: str) -> None:
    kind = get_completion_class(name)
    assert kind is not None
    source = kind(main, {}, "wingsctl", "_WINGSCTL_COMPLETE").source()
    made = (HOME / FILES[name]).read_text()
    command = f"_WINGSCTL_COMPLETE={name}_source wingsctl > etc/completion/{FILES[name]}"
    assert made.strip() == source.strip(), f"make it anew: {command}"


def completed(words: str, **environment: str) -> list[str]:
    ran = subprocess.run(
        WINGSCTL,
        env=os.environ
        | {
            "_WINGSCTL_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stderr == ""
    return [line.partition(",")[2] for line in ran.stdout.split()]


def test_a_servers_name_is_one_that_moves_or_has_moved(scripted: Scripted) -> None:
    told = {
        "running": [running()],
        "expected": [{"server": OTHER, "expires": 1.0}],
        "past": [past(), past(server=OTHER)],
    }
    scripted.answers("GET", "transfers", told)
    assert completed(f"wingsctl --socket {scripted.path} show ") == [UUID, OTHER]
    assert completed("wingsctl show 1", WINGSCTL_SOCKET=str(scripted.path)) == [OTHER]


def test_without_a_daemon_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    assert completed("wingsctl show ", WINGSCTL_SOCKET=str(tmp_path / "none")) == []
