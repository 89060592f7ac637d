"""`GET /api/system`: what this node runs on, as Panels show it; `?v=2` tells more."""

from __future__ import annotations

import os
import platform
import sys
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.logger import Logger

from wingsd import __version__
from wingsd.api.resource import Endpoint
from wingsd.docker.runtime import EngineInformation
from wingsd.errors import WingsdError
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.util.serialization import Keywords

__all__ = ["SystemEndpoint"]

Amount = Annotated[int, Keywords(minimum=0)]
Number = Annotated[int, Keywords(minimum=1)]

# Panels know machines by the names that Go has for them.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
}


@attrs.frozen
class SystemInformation:
    """What the node runs on, in few words."""

    architecture: str
    cpu_count: Number
    kernel_version: str
    os: Annotated[str, "The kernel's name."]
    version: Annotated[str, "Of wingsd."]


@attrs.frozen
class Machine:
    """What the node runs on."""

    architecture: str
    cpu_threads: Number
    memory_bytes: Number
    kernel_version: str
    os: Annotated[str, "The distribution's name."]
    os_type: Annotated[str, "The kernel's name."]


@attrs.frozen
class Cgroups:
    """How the Docker engine bounds what containers use."""

    driver: str
    version: str


@attrs.frozen
class Containers:
    """How many the Docker engine has, whoever's they are."""

    total: Amount
    running: Amount
    paused: Amount
    stopped: Amount


@attrs.frozen
class Storage:
    """Where the Docker engine keeps its images and containers."""

    driver: str
    filesystem: str


@attrs.frozen
class Runc:
    """What the Docker engine starts containers with."""

    version: str


@attrs.frozen
class DockerInformation:
    """The Docker engine. What it does not tell is empty."""

    version: str
    cgroups: Cgroups
    containers: Containers
    storage: Storage
    runc: Runc


@attrs.frozen
class SystemAndEngine:
    """What the node runs on, and what its servers do."""

    version: Annotated[str, "Of wingsd."]
    system: Machine
    docker: Annotated[DockerInformation | None, "When there is an engine, and it answers."] = None


@attrs.frozen
class SystemQuery:
    """How much is wanted."""

    v: Annotated[str, "`2` asks for more, and for the Docker engine, if it answers."] = ""


class SystemEndpoint(Endpoint):
    """`/api/system`."""

    topic = Topic.NODE
    _log = Logger()

    @call("GET", Success(HTTPStatus.OK, "The node."))
    async def get_system(
        self, request: StreamingRequest, query: SystemQuery
    ) -> SystemInformation | SystemAndEngine:
        """Tell what the node runs on."""
        machine = _machine()
        if query.v == "2":
            return SystemAndEngine(__version__, machine, await self._docker())
        return SystemInformation(
            architecture=machine.architecture,
            cpu_count=machine.cpu_threads,
            kernel_version=machine.kernel_version,
            os=machine.os_type,
            version=__version__,
        )

    async def _docker(self) -> DockerInformation | None:
        if self.services.engine is None:
            return None
        try:
            return _described(await self.services.engine())
        except WingsdError as error:
            self._log.warn("the node is described without its engine: {error}", error=error)
            return None


def _machine() -> Machine:
    machine = platform.machine()
    return Machine(
        architecture=_ARCHITECTURES.get(machine, machine),
        cpu_threads=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel_version=platform.release(),
        os=_distribution(),
        os_type=sys.platform,
    )


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _described(engine: EngineInformation) -> DockerInformation:
    return DockerInformation(
        version=engine.version,
        cgroups=Cgroups(engine.cgroup_driver, engine.cgroup_version),
        containers=Containers(engine.containers, engine.running, engine.paused, engine.stopped),
        storage=Storage(engine.storage_driver, engine.filesystem),
        runc=Runc(engine.runc),
    )
