"""What the Docker engine says of itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker_engine import Engine
from tests.support.recording_observer import RecordingObserver
from wingsd.docker import engine as engine_module
from wingsd.docker.engine import information
from wingsd.docker.runtime import engine_address
from wingsd.errors import EnvironmentFailed
from wingsd.util.observer import ENGINE, Observer


def test_the_engine_is_described(engine: Engine) -> None:
    server = engine.server()
    engine.client.create_container(engine.image.removeprefix("~"), name=server.uuid)
    told = information(engine_address("", os.environ), Observer())
    assert told.version == engine.client.version()["Version"]
    found = told.containers
    assert found.total >= found.stopped >= 1
    assert found.total == found.running + found.paused + found.stopped
    assert told.cgroups.version in ("1", "2")
    assert told.storage.driver == engine.client.info()["Driver"]
    assert told.runc.version


def test_one_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    heard = RecordingObserver()
    with pytest.raises(EnvironmentFailed) as caught:
        information(f"unix://{tmp_path}/docker.sock", heard)
    assert "gives no information: No such file or directory" in caught.value.detail
    ((peer, operation, _, error),) = heard.calls
    # As it is, for whoever counts: the engine has not refused, it has not answered.
    assert (peer, operation, isinstance(error, EnvironmentFailed)) == (
        ENGINE,
        "information",
        False,
    )
    assert error is not None


class Sparing:
    """An engine that leaves out what it can."""

    def __init__(self, _: str) -> None:
        self.closed = False

    def version(self) -> dict[str, Any]:
        return {}

    def info(self) -> dict[str, Any]:
        return {"DriverStatus": None, "RuncCommit": None, "Containers": 3}

    def close(self) -> None:
        self.closed = True


def test_what_it_leaves_out_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DockerClient", Sparing)
    heard = RecordingObserver()
    told = information("unix:///x", heard)
    assert [(operation, error) for _, operation, _, error in heard.calls] == [
        ("information", None)
    ]
    assert (told.version, told.storage.filesystem, told.runc.version) == ("", "", "")
    assert (told.containers.total, told.containers.running) == (3, 0)
