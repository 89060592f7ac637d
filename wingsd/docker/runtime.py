"""The interface to the containers of a node; by itself it is that of a node without Docker.

`ContainerRuntime` creates, starts and removes; a `Running` is a started process; a `Watcher` gets
the events of a process.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import attrs

from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build, InstallScript, Settings
from wingsd.util.serialization import Amount


@attrs.frozen(repr=False)
class NetworkUsage:
    """Bytes and packets received and sent since the server's start."""

    rx_bytes: Amount
    tx_bytes: Amount
    rx_packets: Amount
    tx_packets: Amount


@attrs.frozen(repr=False)
class DiskIo:
    """Bytes read from and written to disks since the server's start."""

    read_bytes: Amount
    write_bytes: Amount


@attrs.frozen(repr=False)
class Pressure:
    """The time in which a process waited for a resource: the kernel's PSI, `some`.

    `percent` is its part of the last 10 seconds.
    """

    percent: float
    seconds: float


@attrs.frozen(repr=False)
class ContainerUsage:
    """The usage of a running server: bytes, percent of one core, milliseconds since its start.

    A server without a limit of memory has that of the machine. Counts are since its start. What is
    not known is None, or left out of `pressure`, which is by `cpu`, `memory` and `io`.
    """

    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_absolute: float = 0.0
    network: NetworkUsage | None = None
    disk_io: DiskIo | None = None
    uptime: int = 0
    cpu_seconds: float | None = None
    #: For how long its limit of CPU time kept it waiting, at most.
    throttled_seconds: float | None = None
    memory_peak_bytes: int | None = None
    pressure: Mapping[str, Pressure] = attrs.field(factory=dict)
    #: Processes that the kernel has killed since memory ran out.
    oom_kills: int | None = None
    #: Operations of reading, and of writing.
    disk_operations: tuple[int, int] | None = None
    processes: int | None = None


class Watcher(Protocol):
    """The receiver of a process's events, called in order on the reactor."""

    def output(self, data: bytes) -> None:
        """Take output of the process: any number of lines, or a part of one."""

    def usage(self, usage: ContainerUsage) -> None:
        """Take the usage, about every second."""

    def ended(self, status: int | None, *, out_of_memory: bool, of_node: bool = False) -> None:
        """Take the end: the exit status, None if unknown to the engine. Called once, last.

        With `out_of_memory` the kernel has killed it: by its own limit, or as that `of_node` ran
        out.
        """


class Running(Protocol):
    """A started process. Every method but `detach` raises `EnvironmentFailed`.

    `was_lost` is whether the engine did not answer at some time while it was watched.
    """

    @property
    def was_lost(self) -> bool:
        """See above."""

    async def command(self, line: str) -> None:
        """Type a line, without its end, into the console.

        Raises `ConsoleBlocked`, and `ServerNotRunning` where the process has ended.
        """

    async def signal(self, name: str) -> None:
        """Send a signal, such as "SIGINT"."""

    async def stop(self) -> None:
        """Send the stop signal that the image names; do not wait for the end."""

    async def kill(self) -> None:
        """Kill the process."""

    def detach(self) -> None:
        """Stop watching; the process continues to run."""


@attrs.frozen(repr=False)
class LayerProgress:
    """The progress of one layer of an image's pull, in bytes; a total of 0 is not known.

    `status` is `pulling` or `extracting`, and empty when the layer is complete, or left.
    """

    layer: str
    status: str
    done: int = 0
    total: int = 0


#: Gets each line of a pull, an empty one at its beginning, and None at its end; also the progress
#: of each layer.
PullListener = Callable[[str | LayerProgress | None], object]


@attrs.frozen
class ContainerState:
    """A container at one moment."""

    id: str
    #: The host's directory at `/home/container`, or at an installer's `/mnt/server`; empty when
    #: there is none.
    home: str = ""
    #: The host's file at `/etc/machine-id`; empty when there is none.
    machine_id: str = ""
    running: bool = False
    #: Whether the engine is removing it, or has failed to.
    is_removed: bool = False
    #: Of the last run; 0 for a container that never ran.
    exit_status: int | None = None
    #: Whether the kernel killed a process in it since memory ran out.
    out_of_memory: bool = False
    #: The first process, by the machine of the engine; 0 when it does not run.
    pid: int = 0
    #: Whether it has no network of its own.
    has_machine_network: bool = False
    #: By the engine's clock.
    started: datetime | None = None
    #: The signal that the image names for a stop.
    stop_signal: str = "SIGTERM"
    labels: Mapping[str, str] = attrs.field(factory=dict)
    image: str = ""
    command: tuple[str, ...] = ()
    #: Each as `NAME=value`, those of the image too.
    environment: tuple[str, ...] = ()


_DISABLED = (
    "Docker is disabled on this node, so no server can be started: set docker.enabled to true in "
    "its configuration"
)


class ContainerRuntime:
    """The containers of servers, and those that install them, at most one of each for a server.

    This is a node with `docker.enabled: false`, which has none; `DockerContainers` overrides all.
    Methods raise `EnvironmentFailed`. Containers of another node on the same engine are never
    touched: where one has the name of a server's, that is a failure.
    """

    #: Whether this node can run programs of servers, and scripts that install them.
    enabled = False

    async def create(self, settings: Settings) -> bool:
        """Make the container of a server; return whether this call made it.

        An existing one of this node is kept.
        """
        return False

    async def name_conflict(self, uuid: str) -> str:
        """Describe a container of another node that has this server's name; empty if none."""
        return ""

    async def rehearse(self, settings: Settings) -> float:
        """Try whether a container with these settings can be made; leave nothing but its image.

        Return the seconds that this took once the image was there. The container of the server,
        and one of another node with its name, are not touched. For some minutes the image counts
        as the newest.
        """
        return 0.0

    async def end_rehearsal(self, uuid: str) -> None:
        """Remove what a daemon that died during a rehearsal has left."""

    async def recreate(
        self, settings: Settings, listener: PullListener | None = None
    ) -> list[str]:
        """Replace the container by one with these settings; the old one must not run.

        `listener` gets the lines of its image's pull. Return what to say to users of what is left
        out.
        """
        return []

    async def update(self, uuid: str, before: Build, after: Build) -> list[str]:
        """Change the limits of a running container; return warnings on what is not applied."""
        return []

    async def remove(self, uuid: str) -> None:
        """Remove the container, running or not; ignore a missing one, or another node's."""

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Start the server; `watcher` gets all its events."""
        raise EnvironmentFailed(_DISABLED)

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch a process that runs already; None when none of this node runs."""
        return None

    async def logs(self, uuid: str, lines: int) -> list[str]:
        """Return the last lines of the console, also of a stopped server."""
        return []

    # Installers

    async def create_installer(
        self, settings: Settings, script: InstallScript, directory: str, listener: PullListener
    ) -> None:
        """Pull the image and create the installer, in place of one that is left over.

        `directory` has the script, as `wingsd.docker.container.SCRIPT`.
        """
        raise EnvironmentFailed(_DISABLED)

    async def start_installer(self, uuid: str, watcher: Watcher) -> Running:
        """Start the created installer; `watcher` gets its output from the first byte."""
        raise EnvironmentFailed(_DISABLED)

    async def find_installer(self, uuid: str) -> ContainerState | None:
        """Return the state of a server's installer, None when there is none."""
        return None

    async def adopt_installer(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch an installer from now on; None when it does not run."""
        return None

    async def copy_output(self, uuid: str, write: Callable[[bytes], object]) -> None:
        """Call `write`, in a thread, with all that an installer has written so far."""

    async def remove_installer(self, uuid: str) -> None:
        """Remove a server's installer, running or not; ignore a missing one, or another node's."""

    async def installers(self) -> list[str]:
        """Return the servers of this node that have an installer."""
        return []


@attrs.frozen(eq=False, repr=False)
class EngineDisk:
    """Bytes on the engine's disk, and numbers of images; active images have a container."""

    containers_size: int
    images_total: int
    images_active: int
    images_size: int
    build_cache_size: int


@attrs.frozen(eq=False, repr=False)
class RunningContainer:
    """A container that runs, of this node or not."""

    id: str
    name: str
    image: str
    status: str


@attrs.frozen(eq=False, repr=False)
class ServerContainer:
    """A container of a server, running or not, of this node or of another.

    `home` is the host's directory of the server's files, `node` the UUID of the node that has made
    the container; empty in one of another daemon. `status` is for people, such as "Up 3 hours".
    """

    name: str
    home: str
    status: str
    image: str
    node: str

    @property
    def server(self) -> str:
        """The UUID of its server."""
        return posixpath.basename(self.home)

    @property
    def removal(self) -> str:
        """The command that removes it."""
        return f"docker rm --force --volumes {self.name}"


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


_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


def engine_address(configured: str, environ: Mapping[str, str]) -> str:
    """Return the URL of the engine: `docker.socket` (path or URL), DOCKER_HOST or a default."""
    if configured.startswith("/"):
        return f"unix://{configured}"
    return configured or environ.get("DOCKER_HOST") or _DEFAULT_ADDRESS
