"""`GET /api/system`: what this node runs on, as Panels show it; `?v=2` tells more."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from twisted.logger import Logger

from wingsd import __version__
from wingsd.config import Config
from wingsd.environment.information import EngineInformation
from wingsd.errors import WingsdError
from wingsd.web.answers import Answer
from wingsd.web.endpoint import Endpoint
from wingsd.web.request import StreamingRequest

__all__ = ["SystemEndpoint"]

# Panels know machines by the names that Go has for them.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
}


class SystemEndpoint(Endpoint):
    """`/api/system`. `engine` asks the Docker engine about itself; None when there is none."""

    _log = Logger()

    def __init__(
        self, config: Config, engine: Callable[[], Awaitable[EngineInformation]] | None
    ) -> None:
        super().__init__(config)
        self._engine = engine

    async def handle_GET(self, request: StreamingRequest) -> Answer:
        """Return what the node runs on; in version 2 with the engine, if it answers."""
        if request.argument("v") == "2":
            return Answer(HTTPStatus.OK, await self._version_2())
        system = _system()
        answer = {
            "architecture": system["architecture"],
            "cpu_count": system["cpu_threads"],
            "kernel_version": system["kernel_version"],
            "os": system["os_type"],
            "version": __version__,
        }
        return Answer(HTTPStatus.OK, answer)

    async def _version_2(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"version": __version__, "system": _system()}
        if self._engine is not None:
            try:
                answer["docker"] = _docker(await self._engine())
            except WingsdError as error:
                self._log.warn("the node is described without its engine: {error}", error=error)
        return answer


def _system() -> dict[str, Any]:
    machine = platform.machine()
    return {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "cpu_threads": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel_version": platform.release(),
        "os": _distribution(),
        "os_type": sys.platform,
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _docker(engine: EngineInformation) -> dict[str, Any]:
    return {
        "version": engine.version,
        "cgroups": {"driver": engine.cgroup_driver, "version": engine.cgroup_version},
        "containers": {
            "total": engine.containers,
            "running": engine.running,
            "paused": engine.paused,
            "stopped": engine.stopped,
        },
        "storage": {"driver": engine.storage_driver, "filesystem": engine.filesystem},
        "runc": {"version": engine.runc},
    }
