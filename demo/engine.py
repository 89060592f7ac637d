"""The Docker engine's part: an image for the server, a look at its container, and tidying up."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from docker import APIClient
from docker.errors import DockerException, NotFound

from demo.show import Failed
from wingsd.testing.image import CHANGES, image_tar

__all__ = ["IMAGE", "NETWORK", "Engine", "network"]

_REPOSITORY = "wingsd-demo"
IMAGE = f"{_REPOSITORY}:busybox"
NETWORK = "wingsd-demo"


def network() -> dict[str, Any]:
    """Return `docker.network` of the node: apart from a network that servers here may use."""
    return {
        "name": NETWORK,
        "network_mode": NETWORK,
        "bridge_name": "wingsd-demo",
        "interface": "198.18.254.1",
        "interfaces": {
            "v4": {"subnet": "198.18.254.0/28", "gateway": "198.18.254.1"},
            "v6": {"subnet": "fd5e:de30:1::/64", "gateway": "fd5e:de30:1::1"},
        },
    }


class Engine:
    """The engine that answers here; all methods block. Raises `Failed` when none does."""

    def __init__(self) -> None:
        try:
            self._client = APIClient(os.environ.get("DOCKER_HOST"), version="auto", timeout=30)
            self.version: str = self._client.version()["Version"]
        except DockerException as error:
            raise Failed(f"no Docker engine answers: {error}") from error
        self._network_was_there = bool(self._client.networks(names=[NETWORK]))

    def make_image(self) -> None:
        """Import the image; `IMAGE` is its name."""
        data, tag = image_tar(), IMAGE.partition(":")[2]
        self._client.import_image_from_data(data, repository=_REPOSITORY, tag=tag, changes=CHANGES)

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what `docker inspect` tells of a container. Raises `Failed` without one."""
        try:
            found: dict[str, Any] = self._client.inspect_container(name)
        except NotFound as error:
            raise Failed(f"there is no container {name}") from error
        return found

    def clean_up(self, containers: list[str]) -> None:
        """Remove the containers, the image, and the network if it was not there before."""
        for name in containers:
            with suppress(NotFound):
                self._client.remove_container(name, force=True)
        with suppress(NotFound):
            self._client.remove_image(IMAGE, force=True)
        if not self._network_was_there:
            with suppress(NotFound):
                self._client.remove_network(NETWORK)
        self._client.close()
