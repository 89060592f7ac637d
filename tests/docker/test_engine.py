"""Tests for those parts of `wingsd.docker.engine` that need no engine."""

from __future__ import annotations

import pytest

from wingsd.docker.runtime import engine_address


@pytest.mark.parametrize(
    ("socket", "environ", "url"),
    [
        ("", {}, "unix:///var/run/docker.sock"),
        ("", {"DOCKER_HOST": ""}, "unix:///var/run/docker.sock"),
        ("", {"DOCKER_HOST": "tcp://engine:2375"}, "tcp://engine:2375"),
        ("/run/podman.sock", {"DOCKER_HOST": "tcp://engine:2375"}, "unix:///run/podman.sock"),
        ("unix:///run/docker.sock", {}, "unix:///run/docker.sock"),
        ("tcp://127.0.0.1:2375", {}, "tcp://127.0.0.1:2375"),
    ],
)
def test_the_engines_address(socket: str, environ: dict[str, str], url: str) -> None:
    assert engine_address(socket, environ) == url
