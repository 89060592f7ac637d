"""Images and networks of containers: pulled and created before the container, and credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any

import attrs
from twisted.logger import Logger, LogLevel

from wingsd.config import Config, Registry
from wingsd.docker import engine
from wingsd.docker.async_engine import EngineSession
from wingsd.docker.container import ImageSource, image_source, is_below
from wingsd.docker.network import FORMER_DEFAULTS, network_mode, network_spec
from wingsd.docker.runtime import LayerProgress, PullListener
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings

__all__ = ["ImagesAndNetworks", "PullProgress", "follow", "registry_for"]

#: Seconds between two log lines about a pull.
PULL_REPORT = 10
#: The same where users watch the pull.
PULL_SHOWN = 1

#: Seconds for which an image that was pulled for a move is not pulled for its server again.
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
    wanted = _with_host(image)
    best = None
    longest = -1
    for key, registry in registries.items():
        prefix = _registry_prefix(key)
        if is_below(wanted, prefix) and len(prefix) > longest:
            best, longest = registry, len(prefix)
    return best


def _with_host(image: str) -> str:
    # The first part is a host only if it looks like one, as for Docker itself.
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return _unalias(image)
    return f"{_DOCKER_HUB}/{image}"


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
        #: By server: the image that was pulled for its move, and until when that is enough.
        self._kept: dict[str, tuple[str, float]] = {}
        #: The networks of a former default that are logged as still in use.
        self._noted: set[str] = set()

    def keep_for_now(self, server: Settings) -> None:
        """Do not pull the server's image again for some minutes: it is to be started soon."""
        now = monotonic()
        self._kept = {uuid: kept for uuid, kept in self._kept.items() if kept[1] > now}
        self._kept[server.uuid] = (image_source(server).name, now + KEPT)

    async def _is_kept(self, session: EngineSession, uuid: str, image: str) -> bool:
        name, until = self._kept.get(uuid, ("", 0.0))
        is_recent = name == image and monotonic() < until
        return is_recent and await session.call(engine.image_exists, image)

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
        await self._ensure_image(session, server.uuid, image or image_source(server), listener)
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
            self._note_former(former, spec.name)
            return former
        if await session.call(engine.ensure_network, spec):
            self._log.info("network {network} created", network=spec.name)
        return spec.name

    def _note_former(self, former: str, name: str) -> None:
        if former not in self._noted:
            self._noted.add(former)
            self._log.info(
                "network {former} stays in use, since there is no {name}; to use that, stop the "
                "servers, run `docker network rm {former}`, and start them again",
                former=former,
                name=name,
            )

    async def _ensure_image(
        self,
        session: EngineSession,
        uuid: str,
        image: ImageSource,
        listener: PullListener | None,
    ) -> None:
        if image.local_only:
            if not await session.call(engine.image_exists, image.name):
                raise EnvironmentFailed(
                    f"there is no image {image.name} on this node, and it is never pulled since "
                    "the Panel names it with a leading ~: load or build it here under that name, "
                    "or remove the ~ to have it pulled",
                    is_final=True,
                )
            return
        if await self._is_kept(session, uuid, image.name):
            self._log.info("{server}: {image} was pulled before", server=uuid, image=image.name)
            return
        why = await self._pull(session, uuid, image.name, listener)
        if not why:
            return
        if not await session.call(engine.image_exists, image.name):
            raise EnvironmentFailed(
                f"the image {image.name} could not be pulled, and this node has no image of that "
                f"name: {why}",
                is_final=any(each in why.lower() for each in _NO_SUCH_IMAGE),
            )
        self._log.warn(
            "{server}: {image} could not be pulled, the local image is used: {why}",
            server=uuid,
            image=image.name,
            why=why,
        )
        if listener is not None:
            listener(f"{image.name} could not be pulled, the local image is used: {why}")

    async def _pull(
        self, session: EngineSession, uuid: str, image: str, listener: PullListener | None
    ) -> str:
        """Pull `image`; return why that failed, empty when it did not."""
        names = {"server": uuid, "image": image}
        self._log.info("{server}: pulling {image}", **names)
        registry = registry_for(self._config.docker.registries, image)
        auth = attrs.asdict(registry) if registry else None
        progress = PullProgress()
        shown = listener or _ignore

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


def _ignore(line: str | LayerProgress | None) -> None:
    """Ignore a line or the progress of a pull."""
