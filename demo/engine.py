"""The Docker engine: images of the games, queries about containers, and removal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import DockerException, NotFound

from demo.output import Failed

__all__ = ["HOST", "NETWORK", "Engine", "network"]

NETWORK = "wingsd-demo"
#: Where the host, and with it everybody else, meets the containers.
HOST = "198.18.254.1"
# As the images that eggs name: the invocation is the container's first process, in the server's
# own directory.
_CHANGES = [
    'CMD ["/bin/sh", "-c", "eval \\"exec $STARTUP\\""]',
    "WORKDIR /home/container",
    "ENV HOME=/home/container",
]


def network() -> dict[str, Any]:
    """Return `docker.network` of a node, separate from networks that this machine may use."""
    return {
        "name": NETWORK,
        "network_mode": NETWORK,
        "bridge_name": "wingsd-demo",
        "interface": HOST,
        "interfaces": {
            "v4": {"subnet": "198.18.254.0/28", "gateway": HOST},
            "v6": {"subnet": "fd5e:de30:1::/64", "gateway": "fd5e:de30:1::1"},
        },
    }


class Engine:
    """The engine that answers here; all methods block. Raises `Failed` when none does."""

    def __init__(self) -> None:
        try:
            self._client = APIClient(os.environ.get("DOCKER_HOST"), version="auto", timeout=60)
            self.version: str = self._client.version()["Version"]
        except DockerException as error:
            raise Failed(f"no Docker engine answers: {error}") from error
        self._network_was_there = bool(self._client.networks(names=[NETWORK]))

    def has_image(self, name: str) -> bool:
        """Return whether an image of that name exists."""
        return bool(self._client.images(name))

    def make_image(self, name: str, root: Path | bytes) -> None:
        """Create an image from a root file system, a tar file or its bytes."""
        repository, _, tag = name.partition(":")
        names: Any = {"repository": repository, "tag": tag, "changes": _CHANGES}
        if isinstance(root, bytes):
            self._client.import_image_from_data(root, **names)
        else:
            self._client.import_image_from_file(str(root), **names)

    def remove_image(self, name: str) -> None:
        """Remove an image, if it exists."""
        with suppress(NotFound):
            self._client.remove_image(name, force=True)

    def inspect(self, name: str) -> dict[str, Any] | None:
        """Return the result of `docker inspect` for a container; None without one."""
        try:
            found: dict[str, Any] = self._client.inspect_container(name)
        except NotFound:
            return None
        return found

    def home(self, name: str) -> str:
        """Return the host directory of a container's server; empty without one."""
        found = self.inspect(name) or {"Mounts": []}
        homes = [m["Source"] for m in found["Mounts"] if m["Destination"] == "/home/container"]
        return homes[0] if homes else ""

    def remove_containers(self, names: Sequence[str]) -> None:
        """Remove the containers, and the network if it did not exist before."""
        for name in names:
            with suppress(NotFound):
                self._client.remove_container(name, force=True)
        if not self._network_was_there:
            with suppress(NotFound):
                self._client.remove_network(NETWORK)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
