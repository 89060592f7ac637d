"""A real Docker engine for tests: an image of busybox, and unique names.

Everything a test makes through it is removed at the end, whether the test passed or not.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
from docker import APIClient
from docker.errors import DockerException, NotFound

from tests.support.image import CHANGES, image_tar
from wingsd.config import (
    Config,
    DockerConfig,
    Interfaces,
    IPv4,
    IPv6,
    MachineIdConfig,
    NetworkConfig,
    SystemConfig,
    User,
)
from wingsd.panel.schemas import Allocations, Build, Default, Image, Settings

#: A registry that nobody runs.
NO_REGISTRY = "127.0.0.1:1"
#: RFC 2544.
BENCHMARK_ADDRESSES = IPv4Network("198.18.0.0/15")
#: Held by the test that has the engine.
LOCK = Path(tempfile.gettempdir(), f"wingsd-test-engine-{os.getuid()}.lock")


@attrs.define
class Engine:
    """The engine, an image on it, and what one test makes there."""

    client: APIClient
    #: As the Panel would name it: local, never pulled.
    image: str
    volumes: Path
    _cleanup: ExitStack
    #: Of its network: 28 bits leave addresses for 13 containers.
    _prefix: int = 28
    _token: str = attrs.field(factory=lambda: uuid4().hex)
    _subnet: IPv4Network | None = None

    def config(self) -> Config:
        """Return a node whose network is this test's own, down to the bridge on the host."""
        return self._config(self._network())

    def config_without_network(self) -> Config:
        """Return a node whose containers have none: the engine then starts them with less work."""
        return self._config(NetworkConfig(network_mode="none"))

    def _network(self) -> NetworkConfig:
        name = self.will_make_network(f"wingsd-test-{self._token}")
        self._subnet = subnet = self._subnet or self._free_subnet()
        v4 = IPv4(str(subnet), str(subnet[1]))
        # For local use (RFC 4193).
        prefix = f"fd{self._token[:2]}:{self._token[2:6]}:{self._token[6:10]}"
        return NetworkConfig(
            interface=v4.gateway,
            name=name,
            network_mode=name,
            bridge_name=f"wt-{self._token[:12]}",
            interfaces=Interfaces(v4, IPv6(f"{prefix}::/64", f"{prefix}::1")),
        )

    def _config(self, network: NetworkConfig) -> Config:
        return Config(
            token_id="id",
            token="secret",
            remote="http://127.0.0.1:1",
            system=SystemConfig(
                data=str(self.volumes),
                user=User(uid=1234, gid=1234),
                machine_id=MachineIdConfig(directory=f"{self.volumes}.machine-id"),
            ),
            docker=DockerConfig(network=network),
        )

    def for_node(self, server: str) -> dict[str, Any]:
        """Return changes to the configuration of a node that makes a server's container here.

        The container is removed afterwards.
        """
        docker = self.config().docker  # before: the network is removed after the container
        self.will_make_container(server)
        return {"docker": attrs.asdict(docker)}

    def server(self, invocation: str = "exit 0", image: str = "") -> Settings:
        """Return a server with a directory of its own; `invocation` is a shell command."""
        uuid = self.will_make_container(str(uuid4()))
        home = self.volumes / uuid
        home.mkdir()
        home.chmod(0o777)
        return Settings(
            uuid=uuid,
            invocation=invocation,
            container=Image(image or self.image),
            build=Build(memory_limit=64, cpu_limit=50),
            allocations=Allocations(default=Default("127.0.0.1", 25565)),
        )

    def will_make_container(self, name: str) -> str:
        """Note a container that is to be removed afterwards; return its name."""
        self._later(self.client.remove_container, name, force=True)
        return name

    def will_make_network(self, name: str) -> str:
        """Note a network that is to be removed afterwards; return its name."""
        self._later(self.client.remove_network, name)
        return name

    def tag(self, name: str) -> str:
        """Give the image a second name; return it."""
        self.client.tag(self.image.removeprefix("~"), name)
        return self.will_have_image(name)

    def will_have_image(self, name: str) -> str:
        """Note an image that is to be removed afterwards; return its name."""
        self._later(self.client.remove_image, name)
        return name

    def run(self, server: Settings) -> tuple[int, str]:
        """Start the server's container and wait for its end; return exit status and output."""
        self.client.start(server.uuid)
        status = self.client.wait(server.uuid, timeout=30)["StatusCode"]
        return status, self.client.logs(server.uuid).decode()

    def _free_subnet(self) -> IPv4Network:
        """Return a subnet that no network of the engine has, such as one of a killed run."""
        taken = [
            ip_network(pool["Subnet"])
            for network in self.client.networks()
            for pool in network["IPAM"]["Config"] or ()
        ]
        subnets = list(BENCHMARK_ADDRESSES.subnets(new_prefix=self._prefix))
        first = int(self._token[:4], 16) % len(subnets)
        return next(
            subnet
            for subnet in (*subnets[first:], *subnets[:first])
            if not any(other.version == 4 and subnet.overlaps(other) for other in taken)
        )

    def _later(self, remove: Callable[..., Any], name: str, **options: Any) -> None:
        def unless_missing() -> None:
            with suppress(NotFound):
                remove(name, **options)

        self._cleanup.callback(unless_missing)


@contextmanager
def connected() -> Iterator[APIClient]:
    """Give a client of the engine. Raises `DockerException` when none answers."""
    client = APIClient(os.environ.get("DOCKER_HOST"), version="auto", timeout=60)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def imported_busybox(client: APIClient) -> Iterator[str]:
    """Give the name of an image whose containers run their invocation in a shell."""
    # A tag of its own, so that runs at the same time do not remove each other's.
    name, tag = "wingsd-test/busybox", uuid4().hex
    client.import_image_from_data(image_tar(), repository=name, tag=tag, changes=CHANGES)
    try:
        yield f"{name}:{tag}"
    finally:
        client.remove_image(f"{name}:{tag}", force=True)


@contextmanager
def cleaned_engine(
    client: APIClient, image: str, volumes: Path, prefix: int = 28
) -> Iterator[Engine]:
    """Give the engine; what was made on it is removed afterwards."""
    with ExitStack() as cleanup:
        yield Engine(client, f"~{image}", volumes, cleanup, prefix)


@contextmanager
def _connected_or_skipped() -> Iterator[APIClient]:
    with ExitStack() as connection:
        try:
            client = connection.enter_context(connected())
        except DockerException as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no Docker engine: {error}")
        yield client


@pytest.fixture(scope="session")
def busybox() -> Iterator[str]:
    with _connected_or_skipped() as client, imported_busybox(client) as name:
        yield name


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def engine(busybox: str, tmp_path: Path) -> Iterator[Engine]:
    """Yield the engine; what was made on it is removed afterwards.

    One test at a time has it, whichever worker of whichever run on this machine: some give their
    servers the same names.
    """
    with (
        _locked(LOCK),
        _connected_or_skipped() as client,
        cleaned_engine(client, busybox, tmp_path) as cleaned,
    ):
        yield cleaned
