"""What comes before a start, and what the console shows of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.servers.harness import UUID, FakeNode, Outcome, configuration, do
from tests.support.workers import HeldWorkers
from wingsd.config import Rootless, User
from wingsd.errors import StorageError
from wingsd.filesystem.walk import GivenTree
from wingsd.servers import files as files_module
from wingsd.servers.files import ServerDirectories, ServerFiles, ServerStorage
from wingsd.servers.power_states import PowerAction, PowerState

pytestmark = pytest.mark.promise("transfers-stall-no-others")

DISK = "checking server disk space usage, this could take a few seconds..."
FILES = "Updating process configuration files..."
OWNER = "Ensuring file permissions are set correctly, this could take a few seconds..."


def test_the_lines_of_a_start_are_those_of_wings(node: FakeNode) -> None:
    do(node.server(), PowerAction.START).value()
    assert node.daemon_lines == [DISK, FILES, OWNER]


def test_what_was_received_is_walked_through_at_the_second_start_only(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = configuration()
    build = attrs.evolve(limited.settings.build, disk_space=10)
    node.panel.known[UUID] = limited = attrs.evolve(
        limited, settings=attrs.evolve(limited.settings, build=build)
    )
    server = node.server(limited)
    walked: list[str] = []
    measured = ServerFiles.measured

    async def noted(files: ServerFiles) -> int | None:
        walked.append("measured")
        return await measured(files)

    monkeypatch.setattr(ServerFiles, "measured", noted)
    server.files.received(1000)
    do(server, PowerAction.START).value()
    assert (walked, node.daemon_lines) == ([], [DISK, FILES])
    do(server, PowerAction.KILL).value()
    do(server, PowerAction.START).value()
    assert (walked, node.daemon_lines[2:]) == (["measured"], [DISK, FILES, OWNER])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user_are_given_to_that_of_servers(node: FakeNode) -> None:
    server = node.server()
    (node.data / UUID / "of a script").touch()
    os.chown(node.data / UUID / "of a script", 4321, 4321)
    do(server, PowerAction.START).value()
    assert (node.data / UUID / "of a script").stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    "system",
    [
        {"check_permissions_on_boot": False},
        {"user": User(rootless=Rootless(enabled=True))},
    ],
)
def test_owners_are_not_checked_where_that_is_off(tmp_path: Path, system: dict[str, Any]) -> None:
    node = FakeNode(tmp_path, **system)
    do(node.server(), PowerAction.START).value()
    assert node.daemon_lines == [DISK, FILES]
    node.close()


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (GivenTree(1, 2, '"a"', "not permitted"), 'could not be given to the servers\' user, "a"'),
        (StorageError("unreadable", "it is nested too deeply"), "nested too deeply"),
    ],
)
def test_files_that_keep_their_owner_are_named_and_do_not_prevent_a_start(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, outcome: GivenTree | StorageError, says: str
) -> None:
    def give(*_: object) -> GivenTree:
        if isinstance(outcome, StorageError):
            raise outcome
        return outcome

    monkeypatch.setattr(files_module, "give_tree", give)
    server = node.server()
    do(server, PowerAction.START).value()
    assert server.state is PowerState.STARTING
    assert says in node.told("daemon message")[0]


def test_the_thread_that_changes_owners_ends_with_the_start(tmp_path: Path) -> None:
    workers: Any = HeldWorkers()
    walks: Any = None
    directories = ServerDirectories(str(tmp_path), (1, 1))
    storage = ServerStorage(directories, walks, workers)  # walking a tree is long work
    files = ServerFiles(UUID, storage, Clock(), 150, print)
    giving = Outcome.of(files.give_to_user())
    assert not workers.held[0].args[2]()
    giving.deferred.cancel()
    giving.error(CancelledError)
    assert workers.held[0].args[2]()


def test_a_kill_ends_a_start_that_changes_owners(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give(_: ServerFiles) -> GivenTree:
        await Deferred[None]()
        raise AssertionError

    monkeypatch.setattr(ServerFiles, "give_to_user", give)
    server = node.server(configuration())
    starting = do(server, PowerAction.START)
    assert node.daemon_lines[-1] == OWNER
    do(server, PowerAction.KILL).value()
    assert starting.over
    assert server.state is PowerState.OFFLINE
    assert node.called("recreate") == []
