"""What the Docker engine says of itself, for whoever looks after the node; in blocking calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from time import monotonic
from typing import Any

import attrs

from wingsd.environment import engine
from wingsd.errors import EnvironmentFailed
from wingsd.observer import ENGINE, Observer

__all__ = ["EngineInformation", "ask"]


@attrs.frozen
class EngineInformation:
    """The engine's version and kind, and how many containers it has, whoever's they are."""

    version: str
    cgroup_driver: str
    cgroup_version: str
    containers: int
    running: int
    paused: int
    stopped: int
    storage_driver: str
    filesystem: str
    runc: str


def ask(address: str, observer: Observer) -> EngineInformation:
    """Return what the engine at `address` says of itself. Raises `EnvironmentFailed`.

    `observer` is told how long that takes.
    """
    try:
        with (
            observer.timing(ENGINE, "information", monotonic),
            closing(engine.Client(address)) as client,
        ):
            return _information(client.version(), client.info())
    except engine.FAILURES as error:
        raise EnvironmentFailed(
            f"the Docker engine at {address} does not tell about itself: {engine.explain(error)}"
        ) from error


def _information(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineInformation:
    # What an engine leaves out (rootless, podman) is empty.
    storage = dict(info.get("DriverStatus") or ())
    return EngineInformation(
        version=version.get("Version", ""),
        cgroup_driver=info.get("CgroupDriver", ""),
        cgroup_version=info.get("CgroupVersion", ""),
        containers=info.get("Containers", 0),
        running=info.get("ContainersRunning", 0),
        paused=info.get("ContainersPaused", 0),
        stopped=info.get("ContainersStopped", 0),
        storage_driver=info.get("Driver", ""),
        filesystem=storage.get("Backing Filesystem", ""),
        runc=(info.get("RuncCommit") or {}).get("ID", ""),
    )
