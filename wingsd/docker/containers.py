"""Containers of servers, and of their installers, on a Docker engine.

Calls to the engine run in threads (`async_engine`); decisions and logging are on the reactor.
Failures are `EnvironmentFailed`, with the engine's explanation in the detail.

Settings that a kernel does not support (block I/O weight, the out-of-memory killer) are discarded
by the engine itself, which says so in warnings; these are logged.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
from docker import APIClient
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel

from wingsd.config import Config, Registry
from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine, EngineSession
from wingsd.docker.cgroups import Readings
from wingsd.docker.container import (
    FORMER_DEFAULTS,
    HOME,
    INSTALLER_LABELS,
    MACHINE_ID,
    ContainerSpec,
    ImageSource,
    check_mounts,
    check_ports,
    container_spec,
    container_user,
    home_directory,
    image_named,
    image_source,
    installer_name,
    installer_spec,
    is_below,
    network_mode,
    network_spec,
    rehearsal_name,
    rehearsal_spec,
    resources,
    with_mounts,
    with_network,
)
from wingsd.docker.engine import console_lines, foreign_container
from wingsd.docker.process import ContainerProcess, ContainerStreams
from wingsd.docker.runtime import (
    ContainerRuntime,
    ContainerState,
    LayerProgress,
    PullListener,
    Running,
    Watcher,
    engine_address,
)
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Build, InstallScript, Mount, Settings
from wingsd.threadio import Workers
from wingsd.util.observer import Observer
from wingsd.util.reactor import Reactor
from wingsd.util.text import canonical_uuid, disk_advice

#: Seconds between two log lines about a pull.
PULL_REPORT = 10
#: The same where users watch the pull.
PULL_SHOWN = 1

#: Seconds for which an image that was pulled for a move is not pulled again.
KEPT = 900.0

#: What a layer does, by the engine's statuses.
_STAGES = {"Downloading": "pulling", "Extracting": "extracting"}
_MB = 1_000_000
_PULLING = "{server}: pulling {image}: {progress}"

#: What engines quote of registries that have no such image, or none for the machine.
_NO_SUCH_IMAGE = (
    ": not found",
    "invalid reference format",
    "manifest unknown",
    "name unknown",
    "no matching manifest",
    "repository does not exist",
)
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_ALIASES = ("index.docker.io", "registry-1.docker.io")


def registry_for(registries: Mapping[str, Registry], image: str) -> Registry | None:
    """Return the credentials in `docker.registries` that `image` is pulled with, if any.

    A key is a registry's host, with or without scheme and the first parts of a path; of several
    that match, the longest counts.
    """
    # The first part is a host only if it looks like one, as for Docker itself.
    first, slash, _ = image.partition("/")
    has_host = slash and ("." in first or ":" in first or first == "localhost")
    wanted = _unalias(image) if has_host else f"{_DOCKER_HUB}/{image}"
    found = [
        (len(prefix), registry)
        for key, registry in registries.items()
        if is_below(wanted, prefix := _registry_prefix(key))
    ]
    return max(found, key=itemgetter(0), default=(0, None))[1]


def _registry_prefix(key: str) -> str:
    prefix = key.split("://", 1)[-1].rstrip("/")
    # `docker login` stores Docker Hub's credentials under https://index.docker.io/v1/.
    return _DOCKER_HUB if prefix == "index.docker.io/v1" else _unalias(prefix)


def _unalias(name: str) -> str:
    host, slash, rest = name.partition("/")
    return (_DOCKER_HUB if host in _DOCKER_HUB_ALIASES else host) + slash + rest


@attrs.define
class PullProgress:
    """The progress of a pull, from the engine's lines."""

    #: Layer by id: whether it is complete.
    _layers: dict[str, bool] = attrs.field(factory=dict)
    #: Layer by id: bytes downloaded and, as far as known, to download.
    _bytes: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    #: The latest line of each layer, and lines about no layer, that were not shown yet.
    _news: dict[object, str] = attrs.field(factory=dict)
    #: Layer by id: its progress, where it has changed since it was shown.
    _moved: dict[str, LayerProgress] = attrs.field(factory=dict)
    #: The layers whose progress was shown, and not yet that they are complete.
    _under_way: set[str] = attrs.field(factory=set)
    error: str = ""

    def show(self, listener: PullListener) -> None:
        """Give `listener` the lines and progress since the last call, of each layer the latest."""
        lines, self._news = [*self._news.values()], {}
        for line in lines:
            listener(line)
        moved, self._moved = [*self._moved.values()], {}
        for progress in moved:
            if progress.status:
                self._under_way.add(progress.layer)
            elif progress.layer not in self._under_way:
                continue
            else:
                self._under_way.remove(progress.layer)
            listener(progress)

    def end(self, listener: PullListener) -> None:
        """Show what is left, and that no layer is under way any more."""
        self.show(listener)
        for layer in sorted(self._under_way):
            listener(LayerProgress(layer, ""))
        self._under_way.clear()

    def update(self, line: Mapping[str, Any]) -> None:
        """Take one line of the engine's answer to `POST /images/create`."""
        self.error = self.error or str(line.get("error") or "")
        layer, status = line.get("id"), line.get("status", "")
        if status:
            shown = f"{status} {line.get('progress') or ''}".strip()
            self._news[layer if layer is not None else len(self._news)] = shown
        if layer is None or status.startswith("Pulling from"):
            return
        complete = status in ("Pull complete", "Already exists")
        self._layers[layer] = complete
        detail = line.get("progressDetail") or {}
        done, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
        if complete or status in _STAGES:
            stage = _STAGES.get(status, "")
            self._moved[layer] = LayerProgress(str(layer), stage, done, total)
        if status == "Downloading":
            self._bytes[layer] = (done, total)
        elif layer in self._bytes:
            _, total = self._bytes[layer]
            self._bytes[layer] = (total, total)

    def __str__(self) -> str:
        """Return the progress as text, with sizes in MB."""
        done = sum(size for size, _ in self._bytes.values()) / _MB
        total = sum(size for _, size in self._bytes.values()) / _MB
        complete = sum(self._layers.values())
        return f"{complete} of {len(self._layers)} layers, {done:.1f} of {total:.1f} MB"


def follow(
    progress: PullProgress,
    lines: Iterator[Mapping[str, Any]],
    clock: Callable[[], float],
    seconds: float = PULL_REPORT,
) -> bool:
    """Read the lines of a pull for so many seconds; return whether more may come."""
    until = clock() + seconds
    for line in lines:
        progress.update(line)
        if clock() >= until:
            return True
    return False


class ImagesAndNetworks:
    """The networks and images of the node's containers."""

    _log = Logger()

    def __init__(self, config: Config) -> None:
        self._config = config
        #: The images that were pulled for moves, and until when that is enough.
        self._kept: dict[str, float] = {}
        #: The networks of a former default that are logged as still in use.
        self._noted: set[str] = set()

    def keep_for_now(self, image: str) -> None:
        """Do not pull an image again for some minutes: servers of it are to be started soon."""
        now = monotonic()
        self._kept = {name: until for name, until in self._kept.items() if until > now}
        self._kept[image] = now + KEPT

    async def ensure(
        self,
        session: EngineSession,
        server: Settings,
        image: ImageSource | None = None,
        listener: PullListener | None = None,
    ) -> str:
        """Create the network if it is missing, and pull the newest image, else use the local one.

        The image is the server's unless another is given. Return the network's name, or the
        mode of the engine, for the container. Raises `EnvironmentFailed`.
        """
        network = await self._ensure_network(session, server)
        image = image or image_source(server)
        if image.local_only:
            if not await session.call(engine.image_exists, image.name):
                raise EnvironmentFailed(
                    f"there is no image {image.name} on this node, and it is never pulled since "
                    "the Panel names it with a leading ~: load or build it here under that name, "
                    "or remove the ~ to have it pulled",
                    is_final=True,
                )
            return network
        is_kept = monotonic() < self._kept.get(image.name, 0.0)
        if is_kept and await session.call(engine.image_exists, image.name):
            self._log.info(
                "{server}: {image} was pulled shortly before", server=server.uuid, image=image.name
            )
            return network
        why = await self._pull(session, server.uuid, image.name, listener)
        if not why:
            return network
        if not await session.call(engine.image_exists, image.name):
            raise EnvironmentFailed(
                f"the image {image.name} could not be pulled, and this node has no image of that "
                f"name: {why}",
                is_final=any(each in why.lower() for each in _NO_SUCH_IMAGE),
            )
        self._log.warn(
            "{server}: {image} could not be pulled, the local image is used: {why}",
            server=server.uuid,
            image=image.name,
            why=why,
        )
        if listener is not None:
            listener(f"{image.name} could not be pulled, the local image is used: {why}")
        return network

    async def _ensure_network(self, session: EngineSession, server: Settings) -> str:
        spec = network_spec(self._config, server)
        if spec is None:
            return network_mode(self._config, server)
        former = FORMER_DEFAULTS.get(spec.name)
        if (
            former is not None
            and not await session.call(engine.network_exists, spec.name)
            and await session.call(engine.network_exists, former)
        ):
            if former not in self._noted:
                self._noted.add(former)
                self._log.info(
                    "network {former} stays in use, since there is no {name}; to use that, stop "
                    "the servers, run `docker network rm {former}`, and start them again",
                    former=former,
                    name=spec.name,
                )
            return former
        if await session.call(engine.ensure_network, spec):
            self._log.info("network {network} created", network=spec.name)
        return spec.name

    async def _pull(
        self, session: EngineSession, uuid: str, image: str, listener: PullListener | None
    ) -> str:
        """Pull `image`; return why that failed, empty when it did not."""
        names = {"server": uuid, "image": image}
        self._log.info("{server}: pulling {image}", **names)
        registry = registry_for(self._config.docker.registries, image)
        auth = attrs.asdict(registry) if registry else None
        progress = PullProgress()
        shown = listener or (lambda news: None)

        def follow_pull(_: object) -> bool:
            return follow(progress, lines, monotonic, PULL_SHOWN if listener else PULL_REPORT)

        shown("")
        try:
            lines = await session.run(engine.pull_lines, image, auth)
            # Some seconds at a time, so that no thread has to log.
            while await session.run(follow_pull):
                level = LogLevel.debug if listener else LogLevel.info
                so_far = str(progress)
                self._log.emit(level, _PULLING, progress=so_far, **names)
                progress.show(shown)
        except engine.FAILURES as error:
            return engine.explain(error)
        finally:
            progress.end(shown)
        if progress.error:
            return progress.error
        self._log.info("{server}: {image} is up to date", **names)
        shown(None)
        return ""


#: docker-py's names of the limits that an update can change, by those of the Engine API.
_NAMES = {
    "Memory": "mem_limit",
    "MemoryReservation": "mem_reservation",
    "MemorySwap": "memswap_limit",
    "BlkioWeight": "blkio_weight",
    "CpuQuota": "cpu_quota",
    "CpuPeriod": "cpu_period",
    "CpuShares": "cpu_shares",
    "CpusetCpus": "cpuset_cpus",
}
#: Bytes of memory and swap that no machine has. The engine takes -1 and does not apply it.
UNLIMITED_SWAP = 1 << 60
#: Limits that the engine compares with each other.
_MEMORY = ("Memory", "MemoryReservation", "MemorySwap")


def limit_changes(config: Config, before: Build, after: Build) -> dict[str, Any]:
    """Return the limits that differ, by their names in the Engine API. One that is lifted is 0."""
    old, new = resources(config, before), resources(config, after)
    changed = {name for name in _NAMES if new.get(name) != old.get(name)}
    if changed.intersection(_MEMORY):
        changed.update(_MEMORY)
    return {name: new.get(name) or 0 for name in _NAMES if name in changed}


def update_values(changes: Mapping[str, Any], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an update that makes these changes.

    In an update the engine takes 0 and an empty text for "as it was", so a limit that is lifted
    gets the value that stands for none, or what the whole machine has.

    `machine` is the engine's answer to `GET /info`. A weight that is taken away stays as it is
    until the next start.
    """
    lifted = {
        "Memory": machine["MemTotal"],
        "MemoryReservation": machine["MemTotal"],
        "MemorySwap": UNLIMITED_SWAP,
        "CpuQuota": -1,
        "CpusetCpus": f"0-{machine['NCPU'] - 1}",
    }
    if changes.get("Memory"):
        # What the engine gives a new container without a limit of swap.
        lifted["MemorySwap"] = 2 * changes["Memory"]
    values = {name: value or lifted.get(name) for name, value in changes.items()}
    if values.get("MemorySwap") == -1:
        values["MemorySwap"] = UNLIMITED_SWAP
    return {name: value for name, value in values.items() if value is not None}


def update_container(client: APIClient, name: str, changes: Mapping[str, Any]) -> list[str]:
    """Change limits of a container; return the engine's warnings."""
    values = update_values(changes, client.info())
    arguments = {_NAMES[limit]: value for limit, value in values.items()}
    answer = client.update_container(name, **arguments) if arguments else {}
    return list(answer.get("Warnings") or ())


@attrs.frozen
class IdentityFile:
    """A file on the host, its content, and where a container sees it, read-only.

    Such files tell a container the account of its user, and its machine's id: some programs do not
    run without them (Hytale). Nodes on one machine share the directory of machine ids by default,
    and a server that moves from one to the other has the same id at both.

    A file that is there is left as it is if one of its lines begins with `entry`: Wings writes
    other shells and more accounts into it. `mark` is the path of this node's mark, empty for none.
    """

    path: str
    content: str
    target: str
    entry: str
    mark: str = ""

    @property
    def mount(self) -> Mount:
        """The mount that shows it."""
        return Mount(self.path, self.target, read_only=True)


def identity_files(config: Config, uuid: str) -> list[IdentityFile]:
    """Return the files of the server's container on the node of `config`."""
    system, files = config.system, []
    enabled, directory = system.passwd.enabled, system.passwd.directory
    if config.is_pelican:
        enabled, directory = system.user.passwd.enable, system.user.passwd.directory
    if enabled:
        uid, gid = container_user(config)
        user, group = f"container:x:{uid}:{gid}:", f"container:x:{gid}:"
        files += [
            IdentityFile(
                posixpath.join(directory, "passwd"),
                f"{user}:{HOME}:/usr/sbin/nologin\n",
                "/etc/passwd",
                user,
            ),
            IdentityFile(
                posixpath.join(directory, "group"), f"{group}container\n", "/etc/group", group
            ),
        ]
    if system.machine_id.enable and system.machine_id.enabled:
        path = posixpath.join(system.machine_id.directory, uuid)
        machine_id = uuid.replace("-", "")
        mark = _mark(config, uuid)
        files.append(IdentityFile(path, f"{machine_id}\n", MACHINE_ID, machine_id, mark))
    return files


def _mark(config: Config, uuid: str) -> str:
    node = sha256(config.system.data.encode()).hexdigest()[:12]
    return posixpath.join(config.system.machine_id.directory, f".{uuid}.{node}")


def write_files(files: Sequence[IdentityFile]) -> tuple[list[Mount], list[str]]:
    """Write the files, unless they are there. Blocking.

    Return the mounts of those that are there, and an explanation for each that is not.
    """
    mounts, failures = [], []
    for file in files:
        try:
            os.makedirs(os.path.dirname(file.path), 0o755, exist_ok=True)
            with _locked(os.path.dirname(file.path)):
                if file.mark:
                    Path(file.mark).touch()
                _write(file)
        except OSError as error:
            failures.append(f"{file.path} cannot be written: {disk_advice(error)}")
        else:
            mounts.append(file.mount)
    return mounts, failures


def _write(file: IdentityFile) -> None:
    path = Path(file.path)
    with suppress(FileNotFoundError, UnicodeDecodeError):
        if any(line.startswith(file.entry) for line in path.read_text().splitlines()):
            return
    # Replaced, and not written in place: containers that run show the file.
    fd, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as out:
            out.write(file.content)
            os.fchmod(fd, 0o644)  # The container's user reads it.
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove_machine_id(config: Config, uuid: str, shown: str = "") -> None:
    """Remove the server's machine id, if there is one, unless another node uses it. Blocking.

    One does if its mark is there, or its container shows the file `shown`.
    """
    directory = config.system.machine_id.directory
    path = posixpath.join(directory, uuid)
    with suppress(OSError), _locked(directory):
        with suppress(FileNotFoundError):
            os.unlink(_mark(config, uuid))
        is_marked = any(name.startswith(f".{uuid}.") for name in os.listdir(directory))
        if not is_marked and posixpath.normpath(path) != posixpath.normpath(shown):
            os.unlink(path)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other nodes from writing or removing files in a directory meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


#: Seconds to wait for a container that the engine creates or removes for another client; and
#: between two attempts.
CREATE_TIMEOUT = 30.0
PAUSE = 0.1


class DockerContainers(ContainerRuntime):
    """The `ContainerRuntime` on the engine named by `config.docker.socket`.

    Operations on one container run in the order of their calls. After a cancelled one, the next
    begins when the engine has finished it; so `remove` after a cancelled `create` leaves nothing,
    and a container that a cancelled `start` started can be adopted.
    """

    enabled = True
    _log = Logger()

    def __init__(
        self,
        config: Config,
        workers: Workers,
        reactor: Reactor,
        observer: Observer | None = None,
        readers: Workers | None = None,
    ) -> None:
        """`workers` are threads that call the engine, `readers` those that read control groups."""
        self._config = config
        self._workers = workers
        self._images = ImagesAndNetworks(config)
        #: Apart: an installation pulls its image also where a move of the server has just done so.
        self._installer_images = ImagesAndNetworks(config)
        self._reactor = reactor
        address = engine_address(config.docker.socket, os.environ)
        self._engine = AsyncEngine(workers, address, observer)
        self._streams = ContainerStreams(reactor, address)
        self._readings = Readings(readers or workers, reactor)

    def use(self, config: Config) -> None:
        """Create later containers by another configuration."""
        self._config = config

    async def create(self, settings: Settings) -> bool:
        """Create the container of a server, with the network and the image that it needs.

        Return whether this call created it: one of this node is kept. Raises `EnvironmentFailed`,
        also when another node's container has the name.
        """
        spec = container_spec(self._config, settings)
        async with self._engine.exclusive_session(spec.name) as session:
            if await self._own_container(session, spec.name):
                self._log.info("{server}: its container exists and is kept", server=spec.name)
                return False
            spec = with_network(spec, await self._images.ensure(session, settings))
            spec, _ = await self._with_mounts(spec, settings)
            return await self._create(session, spec)

    async def name_conflict(self, uuid: str) -> str:
        """Return which container of another node has the server's name; empty for none.

        Raises `EnvironmentFailed` when the engine does not answer.
        """
        async with self._engine.session() as session:
            state = await self._look(session, uuid)
        return "" if state is None else self._foreign_reason(state, uuid)

    async def rehearse(self, settings: Settings) -> float:
        """Pull the image, make the network, and make and remove a container that is not started.

        The ports of the server must be free on this machine.

        Return the seconds that this took once the image was there. The container has a name of
        its own; one that a daemon has left that died is removed. Raises `EnvironmentFailed`.
        """
        spec, image = rehearsal_spec(self._config, settings), image_source(settings).name
        # Many servers of one image may arrive: it is pulled once for all of them.
        async with self._engine.exclusive_session(f"the image {image}") as session:
            spec = with_network(spec, await self._images.ensure(session, settings))
            self._images.keep_for_now(image)
        async with self._engine.exclusive_session(spec.name) as session:
            state = await self._look(session, settings.uuid)
            # The server itself may use its ports: its container runs here, of any node.
            if state is None or not state.running:
                await self._workers.run(check_ports, spec.body["HostConfig"]["PortBindings"])
            began = self._reactor.seconds()
            await session.call(engine.remove_container, spec.name, force=True)
            try:
                spec, _ = await self._with_allowed_mounts(spec, settings)
                if await session.call(engine.create_container, spec) is None:
                    raise EnvironmentFailed(f"the name {spec.name} is taken on the Docker engine")
            finally:
                await session.call(engine.remove_container, spec.name, force=True)
        self._log.info("{server}: a test container was created and removed", server=settings.uuid)
        return self._reactor.seconds() - began

    async def end_rehearsal(self, uuid: str) -> None:
        """Remove the container of a rehearsal that the end of a daemon has interrupted.

        Raises `EnvironmentFailed`.
        """
        name = rehearsal_name(self._config, uuid)
        async with self._engine.exclusive_session(name) as session:
            await session.call(engine.remove_container, name, force=True)

    async def recreate(
        self, settings: Settings, listener: PullListener | None = None
    ) -> list[str]:
        """Replace the container by one with these settings; say to users what is left out.

        `listener` gets the lines of its image's pull. The old one is removed last: it stays when
        there is no image. Raises `EnvironmentFailed`, also when it runs, and when another node's
        container has the name.
        """
        spec = container_spec(self._config, settings)
        async with self._engine.exclusive_session(spec.name) as session:
            self._check_stopped(await self._own_container(session, spec.name), spec.name)
            network = await self._images.ensure(session, settings, listener=listener)
            spec, left_out = await self._with_mounts(with_network(spec, network), settings)
            own = await self._own_container(session, spec.name)
            if own is not None:
                await session.call(engine.remove_container, own.id, force=False)
            await self._create(session, spec)
        return left_out

    async def update(self, uuid: str, before: Build, after: Build) -> list[str]:
        """Change the limits of a container, running or about to; return the engine's warnings.

        Raises `EnvironmentFailed`. A missing one is ignored, and another node's stays as it is.
        """
        changes = limit_changes(self._config, before, after)
        if not changes:
            return []
        async with self._engine.exclusive_session(uuid) as session:
            state = await self._look(session, uuid)
            if state is None or self._foreign_reason(state, uuid):
                return []
            warnings = await session.call(update_container, state.id, changes)
        self._log.info(
            "{server}: limits of its container changed: {names}",
            server=uuid,
            names=", ".join(sorted(changes)),
        )
        return warnings

    async def remove(self, uuid: str) -> None:
        """Remove the container of a server, killing it if it runs.

        A missing one is ignored, and another node's stays. This node's file with the server's
        machine id is removed in any case. Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(uuid) as session:
            state = await self._look(session, uuid)
            why_not = state and self._foreign_reason(state, uuid)
            if why_not:
                self._log.info("{server}: container not removed: {why}", server=uuid, why=why_not)
            elif state is not None and await session.call(
                engine.remove_container, state.id, force=True
            ):
                self._log.info("{server}: container removed", server=uuid)
            # A transfer that failed, or a daemon that died, may have left it beside another's.
            shown = state.machine_id if state is not None and why_not else ""
            await self._workers.run(remove_machine_id, self._config, uuid, shown)

    async def start(self, uuid: str, watcher: Watcher) -> Running:
        """Start the container of a server; `watcher` gets its output from the first byte.

        Raises `EnvironmentFailed`, also when there is none, when it runs already, and when it is
        another node's.
        """
        async with self._engine.exclusive_session(uuid) as session:
            own = await self._own_container(session, uuid)
            self._check_stopped(own, uuid)
            process = self._process(own, uuid, uuid, watcher)
            await process.start(session)
        self._log.info("{server}: container started", server=uuid)
        return process

    async def adopt(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch the container of a server from now on, if it is this node's and runs.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(uuid) as session:
            state = await self._look(session, uuid)
            if state is not None and self._foreign_reason(state, uuid):
                return None
            process = await self._joined(session, state, uuid, watcher)
        if process is not None:
            self._log.info("{server}: its container runs already and is watched", server=uuid)
        return process

    async def logs(self, uuid: str, lines: int) -> list[str]:
        """Return the last lines of a container's console that the engine has kept.

        Empty when this node has no container of that name. Raises `EnvironmentFailed`.
        """
        if lines <= 0:
            return []
        async with self._engine.session() as session:
            state = await self._look(session, uuid)
            if state is None or self._foreign_reason(state, uuid):
                return []
            return console_lines(await session.call(engine.console, state.id, lines))

    # Ownership

    async def _look(self, session: EngineSession, uuid: str) -> ContainerState | None:
        state = await session.call(engine.look, uuid)
        if state is None and self._config.docker.server_name_in_container_name:
            return await session.call(engine.look_by_end, f".{uuid}")
        return state

    async def _own_container(self, session: EngineSession, uuid: str) -> ContainerState | None:
        """Return the server's container or None. Raises `EnvironmentFailed` for another node's.

        None also for one that the engine is removing, for a daemon that died: when it is gone.
        """
        state = await self._look(session, uuid)
        why_not = state and self._foreign_reason(state, uuid)
        if why_not:
            raise EnvironmentFailed(
                f"{why_not}; two nodes that share an engine cannot both have a server: delete it "
                "on the other node first, or give each node an engine of its own. If system.data "
                f"was moved, remove the old container: docker rm -f {uuid}"
            )
        if state is not None and state.is_removed:
            await session.call(engine.remove_container, state.id, force=True)
            return None
        return state

    def _check_stopped(self, state: ContainerState | None, uuid: str) -> None:
        if state is not None and state.running:
            raise EnvironmentFailed(f"the container {uuid} is running; stop the server first")

    async def _with_mounts(
        self, spec: ContainerSpec, settings: Settings
    ) -> tuple[ContainerSpec, list[str]]:
        """Add the files of the container's account and machine id, where they can be written.

        A mount of the server in the same place comes before them. Then add the allowed mounts, as
        late as possible: symlinks may be changed meanwhile. Return what to say to users of the
        others as well: paths of the node are not for them.
        """
        targets = {mount.target for mount in settings.mounts}
        files = identity_files(self._config, spec.name)
        mounts, failures = await self._workers.run(
            write_files, [file for file in files if file.target not in targets]
        )
        for why in failures:
            self._log.warn(
                "{server}: its container lacks a file: {why}", server=spec.name, why=why
            )
        return await self._with_allowed_mounts(with_mounts(spec, mounts), settings)

    async def _with_allowed_mounts(
        self, spec: ContainerSpec, settings: Settings
    ) -> tuple[ContainerSpec, list[str]]:
        if not settings.mounts:
            return spec, []
        allowed, refused = await self._workers.run(
            check_mounts, self._config.allowed_mounts, settings.mounts
        )
        for mount in refused:
            self._log.warn(
                "{server}: mount of {source} left out, it is not below one of allowed_mounts",
                server=settings.uuid,
                source=mount.source,
            )
        return with_mounts(spec, allowed), [
            f"The mount at {mount.target} is left out: its directory on the node is not below one "
            "of allowed_mounts. The node's log names it."
            for mount in refused
        ]

    async def _create(self, session: EngineSession, spec: ContainerSpec) -> bool:
        async def exists() -> bool:
            return await self._own_container(session, spec.name) is not None

        why = (
            f", which in {CREATE_TIMEOUT:g} s has neither made nor removed a container of it: see "
            "the engine's log, and restart it"
        )
        if not await self._create_or_wait(session, spec, exists, why):
            self._log.info("{server}: its container exists and is kept", server=spec.name)
            return False
        self._log.info("{server}: container created", server=spec.name)
        return True

    # Installers

    async def create_installer(
        self, settings: Settings, script: InstallScript, directory: str, listener: PullListener
    ) -> None:
        """Pull the image and create the container, in place of one that is left over.

        `directory` has the script. Raises `EnvironmentFailed`.
        """
        spec = installer_spec(self._config, settings, script, directory)
        async with self._engine.exclusive_session(spec.name) as session:
            state = await session.call(engine.look, spec.name)
            if why_not := state and self._foreign_reason(state, settings.uuid, spec.name):
                raise EnvironmentFailed(f"{why_not}; give each node an engine of its own")

            async def remove() -> bool:
                await self._remove_installer(session, settings.uuid)
                return False

            await remove()
            image = image_named(script.container_image)
            network = await self._installer_images.ensure(session, settings, image, listener)
            why = "; see the engine's log, and restart it"
            await self._create_or_wait(session, with_network(spec, network), remove, why)

    async def start_installer(self, uuid: str, watcher: Watcher) -> Running:
        """Start the created container; `watcher` gets its output from the first byte.

        Raises `EnvironmentFailed`.
        """
        name = installer_name(uuid)
        async with self._engine.exclusive_session(name) as session:
            state = await self._own_installer(session, uuid)
            process = self._process(state, name, uuid, watcher)
            await process.start(session)
        return process

    async def find_installer(self, uuid: str) -> ContainerState | None:
        """Return the state of the server's installer, None when this node has none.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            return await self._own_installer(session, uuid)

    async def adopt_installer(self, uuid: str, watcher: Watcher) -> Running | None:
        """Watch the server's installer from now on, None when it does not run.

        Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            state = await self._own_installer(session, uuid)
            return await self._joined(session, state, uuid, watcher)

    async def copy_output(self, uuid: str, write: Callable[[bytes], object]) -> None:
        """Call `write`, in a thread, with all that the installer has written so far.

        Raises `EnvironmentFailed`, and what `write` raises.
        """
        async with self._engine.session() as session:
            state = await self._own_installer(session, uuid)
            if state is not None:
                await session.call(engine.copy_output, state.id, write)

    async def remove_installer(self, uuid: str) -> None:
        """Remove the server's installer with its volumes, killing it if it runs.

        A missing one is ignored, and another node's stays. Raises `EnvironmentFailed`.
        """
        async with self._engine.exclusive_session(installer_name(uuid)) as session:
            await self._remove_installer(session, uuid)

    async def installers(self) -> list[str]:
        """Return the servers of this node that have an installer. Raises `EnvironmentFailed`."""
        async with self._engine.session() as session:
            names = await session.call(engine.names_with_labels, INSTALLER_LABELS)
            found = [canonical_uuid(name.removesuffix("_installer")) for name in names]
            return [
                uuid
                for uuid in filter(None, found)
                if await self._own_installer(session, uuid) is not None
            ]

    async def _remove_installer(self, session: EngineSession, uuid: str) -> None:
        state = await self._own_installer(session, uuid)
        if state is not None:
            await session.call(engine.remove_container, state.id, force=True)
            self._log.info("{server}: installer removed", server=uuid)

    async def _own_installer(self, session: EngineSession, uuid: str) -> ContainerState | None:
        """Return the installer of a server, None where this node has none."""
        name = installer_name(uuid)
        state = await session.call(engine.look, name)
        is_own = state is not None and not self._foreign_reason(state, uuid, name)
        return state if is_own else None

    # What containers of servers and installers have in common

    async def _create_or_wait(
        self,
        session: EngineSession,
        spec: ContainerSpec,
        settle: Callable[[], Awaitable[bool]],
        why: str,
    ) -> bool:
        """Create a container; return False where `settle` says that one exists already.

        `settle` is called while the name is taken: without a container of that name, the engine is
        still creating or removing one for another node, or for a daemon that died. A name that
        stays taken is an `EnvironmentFailed`, whose detail ends with `why`.
        """
        deadline = self._reactor.seconds() + CREATE_TIMEOUT
        while self._reactor.seconds() < deadline:
            warnings = await session.call(engine.create_container, spec)
            for warning in warnings or ():
                self._log.info("{server}: Docker: {warning}", server=spec.name, warning=warning)
            if warnings is not None or await settle():
                return warnings is not None
            await deferLater(self._reactor, PAUSE)
        raise EnvironmentFailed(f"the name {spec.name} is taken on this Docker engine{why}")

    async def _joined(
        self, session: EngineSession, state: ContainerState | None, uuid: str, watcher: Watcher
    ) -> ContainerProcess | None:
        if state is None or not state.running:
            return None
        process = self._process(state, uuid, uuid, watcher)
        return process if await process.join(session) else None

    def _process(
        self, state: ContainerState | None, name: str, uuid: str, watcher: Watcher
    ) -> ContainerProcess:
        if state is None:
            raise EnvironmentFailed(f"there is no container {name} that could be started")
        return ContainerProcess(
            uuid,
            state.id,
            watcher,
            self._engine,
            self._streams,
            self._readings,
            self._reactor,
        )

    def _foreign_reason(self, state: ContainerState, uuid: str, name: str = "") -> str:
        return foreign_container(state, name or uuid, home_directory(self._config, uuid))
