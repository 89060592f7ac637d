"""A node, a server, and what its container is made of."""

from __future__ import annotations

from typing import Any

import attrs

from wingsd.config import Config, DockerConfig
from wingsd.docker.container import container_spec
from wingsd.panel.schemas import Allocations, Build, Default, Image, Settings

UUID = "6f1ad85f-8ee2-46ae-9b45-7ee3f65bd0a4"
NODE = Config(token_id="id", token="secret", remote="http://panel")
SERVER = Settings(
    UUID,
    invocation="java -jar server.jar",
    container=Image("example.org/java:21"),
    build=Build(memory_limit=1024, swap=512, cpu_limit=150, threads="0-1", io_weight=300),
    allocations=Allocations(
        default=Default("203.0.113.7", 25565), mappings={"203.0.113.7": (25565,)}
    ),
)


def node(**docker: Any) -> Config:
    return attrs.evolve(NODE, docker=DockerConfig(**docker))


def body(config: Config = NODE, **server: Any) -> dict[str, Any]:
    return container_spec(config, attrs.evolve(SERVER, **server)).body


def environment(config: Config = NODE, **server: Any) -> dict[str, str]:
    return dict(line.split("=", 1) for line in body(config, **server)["Env"])


def host(config: Config = NODE, **build: Any) -> dict[str, Any]:
    settings: dict[str, Any] = body(config, build=Build(**build))["HostConfig"]
    return settings
