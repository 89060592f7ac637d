"""Installations that Wings began before this node took its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.harness import OTHER, UUID, FakeNode, boot, configuration, do
from tests.servers.installing import log
from tests.support.environment import FakeScript
from wingsd.errors import EnvironmentFailed, ServerBusy
from wingsd.panel.schemas import InstallScript
from wingsd.servers.installations import take_installing
from wingsd.servers.power_states import PowerAction


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    node = FakeNode(tmp_path)
    node.panel.known[UUID] = configuration()
    (node.data / UUID).mkdir()
    yield node
    node.close()


def begun_by_wings(node: FakeNode, output: bytes = b"") -> FakeScript:
    """Return the installer that Wings has left running."""
    script = FakeScript(
        UUID,
        InstallScript("egg/image", "bash", ""),
        "",
        output,
        has_started=True,
        is_foreign=True,
    )
    node.environment.scripts[UUID] = script
    return script


def reported(node: FakeNode) -> list[tuple[object, ...]]:
    return [call for call in node.panel.calls if call[0] in ("installed", "reinstalled", "reset")]


def test_its_script_runs_on_and_is_reported_before_the_restart(node: FakeNode) -> None:
    script = begun_by_wings(node, b"one\n")
    boot(node).value()
    error = do(node.servers.get(UUID), PowerAction.START).error(ServerBusy)
    assert error.message == "server is currently installing"
    script.say(b"two\n")
    assert node.told("install output") == ["two"]
    assert reported(node) == []
    script.end()
    assert reported(node) == [("installed", UUID, True), ("reset",)]
    assert log(node) == "one\ntwo\n"
    assert "Container Image:      egg/image" in log(node, output=False)
    assert (node.environment.scripts, node.servers.get(UUID).hold) == ({}, "")


def test_the_log_of_an_earlier_one_tells_a_reinstallation(node: FakeNode) -> None:
    logs = Path(node.config.system.log_directory) / "install"
    logs.mkdir(parents=True)
    (logs / f"{UUID}.log").write_text("of the first installation\n")
    script = begun_by_wings(node, b"of the second\n")
    boot(node).value()
    script.end()
    assert reported(node) == [("reinstalled", UUID, True), ("reset",)]
    assert log(node) == "of the second\n"


def test_it_goes_on_over_a_restart_of_this_node(node: FakeNode) -> None:
    script = begun_by_wings(node)
    boot(node).value()
    node.restart()
    script.say(b"meanwhile\n")
    boot(node).value()
    script.end()
    assert reported(node) == [("installed", UUID, True), ("reset",)]
    assert log(node) == "meanwhile\n"


def test_one_that_ended_meanwhile_leaves_its_log_and_counts_as_installed(node: FakeNode) -> None:
    script = begun_by_wings(node, b"all done\n")
    script.end()
    boot(node).value()
    assert reported(node) == [("reset",)]
    assert (log(node), node.environment.scripts) == ("all done\n", {})


def test_one_of_a_server_that_is_not_this_nodes_any_more_is_removed(node: FakeNode) -> None:
    begun_by_wings(node)
    node.panel.known.clear()
    boot(node).value()
    assert (node.environment.scripts, reported(node)) == ({}, [("reset",)])


def test_an_engine_that_does_not_answer_is_asked_again(node: FakeNode) -> None:
    script = begun_by_wings(node)
    node.environment.faults["installers"] = EnvironmentFailed("the engine is away")
    boot(node).value()
    node.clock.advance(2)
    node.environment.faults.clear()
    node.clock.pump([2, 4])
    script.end()
    assert reported(node) == [("reset",), ("installed", UUID, True)]


# What Calagopus' nodes have recorded


@pytest.mark.parametrize("reinstall", [True, False])
def test_the_record_of_calagopus_tells_which_it_is(node: FakeNode, *, reinstall: bool) -> None:
    path = Path(node.config.system.root_directory) / "installing.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [False, {"script": "x"}]
    path.write_text(json.dumps({UUID: [reinstall, {"script": "y"}], OTHER: others}))
    script = begun_by_wings(node)
    boot(node).value()
    script.end()
    kind = "reinstalled" if reinstall else "installed"
    assert reported(node) == [(kind, UUID, True), ("reset",)]
    assert json.loads(path.read_text()) == {OTHER: others}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"%s": 1}', '{"%s": []}', "[" * 9999])
def test_a_record_that_calagopus_did_not_write_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "installing.json"
    path.write_text(content.replace("%s", UUID))
    assert take_installing(str(tmp_path), UUID) is None
    assert path.read_text() == content.replace("%s", UUID)
