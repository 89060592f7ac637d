"""`wingsctl evacuate` and its subcommands: plans, results, and what an operator is told."""

from __future__ import annotations

import configparser
import json
import shlex
import time
from pathlib import Path
from unittest.mock import Mock

import attrs
import pytest

from tests.cli.daemon import Command
from tests.cli.evacuated_world import HERE, World
from wingsd.cli import evacuate
from wingsd.cli.client import CtlError, Exit
from wingsd.cli.evacuation.plan import State, load, save
from wingsd.cli.evacuation.sequence import Wish, locked, wish, wished

KEY = "papp_secretsecretsecret"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Three servers, of which the last has to change its port."""
    made = World()
    for number in range(3):
        made.add(10 * (number + 1), (25565 + number,))
        made.add_port("10.0.0.2", 25565 + number + number // 2)
    monkeypatch.setattr(evacuate, "daemon_client", lambda: made)
    monkeypatch.setattr(evacuate, "_panel", lambda *_: made)
    monkeypatch.setattr(time, "sleep", made.sleep)
    return made


class Evacuate:
    def __init__(self, wingsctl: Command, directory: Path) -> None:
        self.plan = str(directory / "plan.json")
        self._key = directory / "key"
        self._key.write_text(KEY)
        self._key.chmod(0o600)
        self._wingsctl = wingsctl

    def __call__(self, *words: str, status: int = 0) -> str:
        key = ["--panel-key-file", str(self._key)]
        return self._run(["evacuate", "--plan", self.plan, *key, *words], status)

    def tell(self, *words: str, status: int = 0) -> str:
        return self._run(["evacuate", *words, "--plan", self.plan], status)

    def _run(self, words: list[str], status: int) -> str:
        ran = self._wingsctl(*words)
        assert ran.status == status, ran.err
        assert KEY not in ran.out + ran.err
        return ran.err if status else ran.out


@pytest.fixture
def run(wingsctl: Command, tmp_path: Path) -> Evacuate:
    return Evacuate(wingsctl, tmp_path)


def test_a_dry_run_shows_the_plan_and_writes_nothing(world: World, run: Evacuate) -> None:
    told = run("--to", "new", "--dry-run")
    assert "old to new, 2 running servers at a time" in told
    assert "25567 -> 25568" in told
    assert "copies: 60.0 MiB, not known before the first copy; moves: about 10 s" in told
    assert "STAY OFF" not in told
    world.facts["starts_moved"] = False
    assert "servers STAY OFF at new" in run("--to", "new", "--dry-run")
    found = json.loads(run("--to", "https://new:8080", "--dry-run", "--json"))
    assert [each["new_addresses"] for each in found["servers"]][2] == ["10.0.0.2:25568"]
    assert (found["state"], found["seconds_of_moves"]) == ("seeding", 10.5)
    assert not Path(run.plan).exists()
    assert not world.ordered
    assert not world.reports


def test_it_moves_all_and_names_new_ports(world: World, run: Evacuate) -> None:
    told = run("--to", "new")
    assert "3 of 3 servers have moved, 60.0 MiB, down for 1.5 s in the median" in told
    assert "players need new ports of: game 3" in told
    assert [each.moves for each in world.games.values()] == [1, 1, 1]
    # Once more there is nothing to do.
    assert "3 of 3" in run()
    assert "3 of 3" in run("--to", "new")


def test_the_exit_status_says_whether_all_have_moved(world: World, run: Evacuate) -> None:
    world.facts["servers_here"] = [next(iter(world.games))]
    ran = run("--to", "new", "--json", status=1)
    assert "moved" in ran
    plan = load(run.plan)
    assert [each.state for each in plan.servers].count(State.MOVED) == 2
    assert plan.servers[0].reason == "the destination has a server of this UUID already"


def test_a_new_plan_keeps_what_the_one_before_has_moved(world: World, run: Evacuate) -> None:
    first = next(iter(world.games))
    world.facts["servers_here"] = [first]
    run("--to", "new", status=1)
    world.facts["servers_here"] = []
    assert "3 of 3" in run("--to", "new")
    plan = load(run.plan)
    assert [each.uuid for each in plan.of(State.MOVED)] == [*list(world.games)[1:], first]
    plan.destination = attrs.evolve(plan.destination, uuid="another", name="third")
    save(plan, run.plan)
    assert "3 servers that have moved to third" in run("--to", "new", status=1)
    assert len(load(run.plan).of(State.MOVED)) == 3


def test_a_plan_is_gone_on_with_before_another_is_made(world: World, run: Evacuate) -> None:
    world.before = Mock(side_effect=[None] * 6 + [KeyboardInterrupt] + [None] * 500)
    told = run("--to", "new", "--at-once", "1", status=130)
    assert f"go on with wingsctl evacuate --plan {run.plan}" in told
    assert "is not finished" in run("--to", "new", status=1)
    assert "3 of 3" in run()
    assert load(run.plan).at_once == 1


@pytest.mark.usefixtures("world")
def test_a_second_command_leaves_the_plan_as_it_is(run: Evacuate) -> None:
    run("--to", "new")
    with locked(run.plan):
        assert "another wingsctl goes on" in run("--at-once", "4", status=1)
    assert load(run.plan).at_once == 2


@pytest.mark.usefixtures("world")
def test_a_new_plan_is_not_cancelled_by_an_old_wish(
    run: Evacuate, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--to", "new")
    wish(run.plan, Wish.CANCEL)
    monkeypatch.setattr(evacuate, "save", Mock(side_effect=CtlError("the disk is full")))
    run("--to", "new", status=1)
    assert wished(run.plan) is Wish.GO_ON


def test_servers_that_have_moved_come_back(world: World, run: Evacuate) -> None:
    run("--to", "new")
    back = f"{run.plan}.back"
    plan = load(run.plan)
    for each in world.games.values():
        each.node = HERE.id
    plan.servers[0].state = State.FAILED
    save(plan, run.plan)
    words = ("--back", run.plan, "--plan", back, "--dry-run", "--json")
    assert "the servers came from old" in run(*words, status=1)
    # The Panel's name of a node is no part of its address.
    plan.source = attrs.evolve(plan.destination, name="Node 1")
    save(plan, run.plan)
    told = run(*words)
    assert [each["name"] for each in json.loads(told)["servers"]] == ["game 2", "game 3"]


def test_another_node_must_be_paired(world: World, run: Evacuate) -> None:
    told = run("--to", "third", status=1)
    assert "not paired with third" in told
    assert "new:8080" in told


def test_the_key_is_required(world: World, wingsctl: Command, run: Evacuate) -> None:
    assert "--panel-key-file is required" in wingsctl("evacuate", "--to", "new").err


def test_a_plan_before_a_subcommand_is_not_ignored(wingsctl: Command) -> None:
    ran = wingsctl("evacuate", "--plan", "/other.json", "cancel")
    assert ran.status == Exit.USAGE
    assert "write --plan after cancel" in ran.err


@pytest.mark.usefixtures("world")
def test_wishes_are_left_for_the_command_that_runs(run: Evacuate) -> None:
    assert "cannot be read" in run.tell("pause", status=1)
    run("--to", "new", "--dry-run")
    assert "cannot be read" in run.tell("status", status=1)


def test_status_pause_resume_and_cancel(world: World, run: Evacuate) -> None:
    world.before = Mock(side_effect=[None] * 6 + [KeyboardInterrupt] + [None] * 500)
    run("--to", "new", status=130)
    assert "NO command goes on with it" in run.tell("status")
    found = json.loads(run.tell("status", "--json"))
    assert found["state"] == "seeding"
    assert all(each["doing"] for each in found["servers"])
    assert "paused" in run.tell("pause")
    assert wished(run.plan) is Wish.PAUSE
    assert json.loads(run.tell("status", "--json"))["state"] == "paused"
    assert "goes on" in run.tell("resume")
    assert wished(run.plan) is Wish.GO_ON
    assert json.loads(run.tell("cancel", "--json"))["wish"] == "cancel"
    # No command goes on with it.
    assert not any(each.seeded for each in world.games.values())
    assert world.reports[-1]["state"] == "cancelled"
    run(status=1)
    assert {each.state for each in load(run.plan).servers} == {State.CANCELLED}
    assert "is finished" in run.tell("pause", status=1)


@pytest.mark.usefixtures("world")
def test_a_detached_evacuation_is_a_unit_with_the_paths_of_plan_and_key(
    run: Evacuate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    systemctl = tmp_path / "systemctl"
    active = tmp_path / "active"
    systemctl.write_text(
        f'#!/bin/sh\n[ $1 = is-active ] && exec test -e {active}\necho "$@" >>{told}\n'
    )
    systemctl.chmod(0o755)
    monkeypatch.setattr(evacuate, "UNITS", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / name))
    monkeypatch.setattr("os.path.isdir", lambda _: False)
    assert "systemd does not run here" in run("--to", "new", "--detach", status=1)
    # No plan is left that the same command without --detach would be refused for.
    assert not Path(run.plan).exists()
    monkeypatch.setattr("os.path.isdir", lambda _: True)
    active.touch()
    assert "runs already, with another plan" in run("--to", "new", "--detach", status=1)
    assert not (tmp_path / evacuate.UNIT).exists()
    active.unlink()
    assert "wingsd-evacuate.service goes on with it" in run("--detach")
    assert told.read_text() == "daemon-reload\nenable --now wingsd-evacuate.service\n"
    text = (tmp_path / evacuate.UNIT).read_text()
    assert f'"--plan" "{run.plan}" "--panel-key-file" "{tmp_path}/key"' in text
    # At its end the unit is disabled by the command that it runs.
    monkeypatch.setenv(evacuate.UNIT_VARIABLE, evacuate.UNIT)
    assert "3 of 3" in run()
    assert told.read_text().endswith("disable wingsd-evacuate.service\n")


def test_the_unit_begins_again_after_a_reboot() -> None:
    words = ["/usr/bin/wingsctl", "--plan", 'a "plan" of 100 % $HOME\\x']
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(evacuate.unit(words))
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    assert parser["Service"]["Restart"] == "on-abnormal"
    written = parser["Service"]["ExecStart"].replace("%%", "%").replace("$$", "$")
    assert shlex.split(written) == words
