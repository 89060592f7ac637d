"""What the engine keeps on its disk, its containers, and the removal of unused images.

Blocking calls with a docker-py client, as in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wingsd.docker.container import HOME, NODE_LABEL, SERVER_LABELS
from wingsd.docker.engine import DockerClient, resolved_home
from wingsd.docker.runtime import EngineDisk, RunningContainer, ServerContainer

__all__ = [
    "engine_disk",
    "engine_report",
    "prune_images",
    "running_containers",
    "server_containers",
]

#: Seconds that the engine may take to add up sizes, or to remove images.
COUNT_TIMEOUT = 120
PRUNE_TIMEOUT = 3600
#: Characters of an identifier that are shown.
_SHORT = 12


def engine_disk(client: DockerClient) -> EngineDisk:
    """Return what the engine keeps on its disk. It adds up the sizes, which takes its time."""
    client.timeout = COUNT_TIMEOUT
    found = client.df()
    images, containers = found.get("Images") or (), found.get("Containers") or ()
    caches = found.get("BuildCache") or ()
    return EngineDisk(
        containers_size=sum(_sizes(containers, "SizeRootFs")),
        images_total=len(images),
        images_active=sum(1 for image in images if (image.get("Containers") or 0) > 0),
        images_size=found.get("LayersSize") or 0,
        build_cache_size=sum(_sizes((each for each in caches if not each.get("Shared")), "Size")),
    )


def _sizes(things: Iterable[Mapping[str, Any]], key: str) -> Iterable[int]:
    return (thing.get(key) or 0 for thing in things)


def prune_images(client: DockerClient, filters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Remove images without a name and a container; return what the engine says of it.

    `filters` are the engine's, such as a label that an image must have. This may take minutes.
    """
    client.timeout = PRUNE_TIMEOUT
    unannotated: Any = client
    removed: dict[str, Any] = unannotated.prune_images(dict(filters or {}))
    return removed


def running_containers(client: DockerClient) -> list[RunningContainer]:
    """Return the containers that run."""
    return [
        RunningContainer(
            id=str(found.get("Id", ""))[:_SHORT],
            name=", ".join(name.lstrip("/") for name in found.get("Names") or ()),
            image=found.get("Image", ""),
            status=found.get("Status", ""),
        )
        for found in client.containers()
    ]


def server_containers(client: DockerClient) -> list[ServerContainer]:
    """Return the containers of servers, of any node, running or not."""
    wanted = [f"{key}={value}" for key, value in SERVER_LABELS.items()]
    found = client.containers(all=True, filters={"label": wanted})
    return [
        ServerContainer(
            name=str(next(iter(each.get("Names") or ()), each["Id"])).lstrip("/"),
            home=resolved_home(mount["Source"]),
            status=each.get("Status") or "",
            image=each.get("Image") or "",
            node=(each.get("Labels") or {}).get(NODE_LABEL, ""),
        )
        for each in found
        for mount in each.get("Mounts") or ()
        if mount.get("Destination") == HOME and mount.get("Source")
    ]


def engine_report(client: DockerClient) -> dict[str, Any]:
    """Return what the engine reports about itself."""
    info: dict[str, Any] = client.info()
    return info
