"""`GET /api/system`: the machine and the Docker engine, as Panels show them."""

from __future__ import annotations

import os
import platform
import sys
from http import HTTPStatus
from typing import Annotated, NoReturn

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.resource import Endpoint
from wingsd.config.vendors import version_for
from wingsd.docker.runtime import EngineInformation
from wingsd.errors import EnvironmentFailed, WingsdError
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.util.serialization import Keywords

__all__ = ["SystemEndpoint", "machine"]

#: Seconds to wait for the engine: a Panel waits for 15 in all.
ENGINE_PATIENCE = 5.0

Amount = Annotated[int, Keywords(minimum=0)]
Number = Annotated[int, Keywords(minimum=1)]

# Panels expect the names of Go.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
}


@attrs.frozen(eq=False, repr=False)
class SystemInformation:
    """The machine, in version 1."""

    architecture: str
    cpu_count: Number
    kernel_version: str
    os: Annotated[str, "The kernel's name."]
    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]


@attrs.frozen(eq=False, repr=False)
class Machine:
    """The machine."""

    architecture: str
    cpu_threads: Number
    memory_bytes: Number
    kernel_version: str
    os: Annotated[str, "The distribution's name."]
    os_type: Annotated[str, "The kernel's name."]


@attrs.frozen(eq=False, repr=False)
class Cgroups:
    """The control groups of the Docker engine."""

    driver: str
    version: str


@attrs.frozen(eq=False, repr=False)
class Containers:
    """Numbers of all containers of the Docker engine."""

    total: Amount
    running: Amount
    paused: Amount
    stopped: Amount


@attrs.frozen(eq=False, repr=False)
class Storage:
    """The storage of the Docker engine."""

    driver: str
    filesystem: str


@attrs.frozen(eq=False, repr=False)
class Runc:
    """The OCI runtime of the Docker engine."""

    version: str


@attrs.frozen(eq=False, repr=False)
class DockerInformation:
    """The Docker engine. What it does not report is empty."""

    version: str
    cgroups: Cgroups
    containers: Containers
    storage: Storage
    runc: Runc


@attrs.frozen(eq=False, repr=False)
class SystemAndEngine:
    """The machine and its Docker engine, in version 2."""

    version: Annotated[str, "Of wingsd; `develop` with Pelican, with Calagopus the last release."]
    system: Machine
    docker: Annotated[DockerInformation | None, "When an engine is used and answers."] = None


@attrs.frozen(eq=False, repr=False)
class SystemQuery:
    """The version of the answer."""

    v: Annotated[str, "`2` for the longer answer, with the Docker engine."] = ""


class SystemEndpoint(Endpoint):
    """`/api/system`."""

    topic = Topic.NODE
    _log = Logger()

    @call("GET", Success(HTTPStatus.OK, "The node."))
    async def get_system(
        self, request: StreamingRequest, query: SystemQuery
    ) -> SystemInformation | SystemAndEngine:
        """Return the machine that this node runs on."""
        here = machine()
        version = version_for(self._config.family)
        if query.v == "2":
            return SystemAndEngine(version, here, await self._docker())
        return SystemInformation(
            architecture=here.architecture,
            cpu_count=here.cpu_threads,
            kernel_version=here.kernel_version,
            os=here.os_type,
            version=version,
        )

    async def _docker(self) -> DockerInformation | None:
        ask = self._node.ask_engine
        if ask is None:
            return None

        async def asked() -> EngineInformation:
            return await ask()

        asking = Deferred.fromCoroutine(asked())
        try:
            return _described(
                await asking.addTimeout(ENGINE_PATIENCE, self._node.reactor, _timed_out)
            )
        except WingsdError as error:
            self._log.warn(
                "the Docker engine did not report its version and containers: {error}", error=error
            )
            return None


def _timed_out(_: object, seconds: float) -> NoReturn:
    raise EnvironmentFailed(f"the Docker engine gives no information within {seconds:g} s")


def machine() -> Machine:
    """Return the machine that this node runs on."""
    name = platform.machine()
    return Machine(
        architecture=_ARCHITECTURES.get(name, name),
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
