"""Tests for the environment of a node of files only."""

from __future__ import annotations

import pytest

from tests.docker.watcher import Notes
from wingsd.docker.runtime import ContainerRuntime
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings


async def test_a_node_of_files_only_makes_and_runs_nothing() -> None:
    environment = ContainerRuntime()
    notes = Notes()
    assert not await environment.create(Settings("uuid"))
    await environment.recreate(Settings("uuid"))
    await environment.remove("uuid")
    assert await environment.name_conflict("uuid") == ""
    assert await environment.adopt("uuid", notes) is None
    assert await environment.logs("uuid", 10) == []
    with pytest.raises(EnvironmentFailed, match="Docker is disabled"):
        await environment.start("uuid", notes)
    assert not environment.enabled
    with pytest.raises(EnvironmentFailed, match="Docker is disabled"):
        await environment.start_installer("uuid", notes)
    await environment.remove_installer("uuid")
    assert await environment.find_installer("uuid") is None
    assert await environment.adopt_installer("uuid", notes) is None
    assert await environment.installers() == []
    assert notes.told == []
