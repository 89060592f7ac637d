"""Which image a container has, and whose credentials fetch it."""

from __future__ import annotations

import attrs
import pytest

from tests.docker.containers import SERVER, body
from wingsd.config import Registry
from wingsd.docker.container import ImageSource, image_source
from wingsd.docker.containers import registry_for
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Image


@pytest.mark.parametrize(
    ("image", "source"),
    [
        ("example.org/java:21", ImageSource("example.org/java:21")),
        ("~java:21", ImageSource("java:21", local_only=True)),
        (" ~java:21 ", ImageSource("java:21", local_only=True)),
    ],
)
def test_a_tilde_keeps_an_image_local(image: str, source: ImageSource) -> None:
    assert image_source(attrs.evolve(SERVER, container=Image(image))) == source
    assert body(container=Image(image))["Image"] == source.name


@pytest.mark.parametrize("image", ["", "~", " "])
def test_a_server_without_an_image_has_no_container(image: str) -> None:
    with pytest.raises(EnvironmentFailed, match="no Docker image"):
        body(container=Image(image))


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("registry.example", "registry.example/java:21"),
        ("https://registry.example/", "registry.example/java"),
        ("registry.example:5000", "registry.example:5000/java"),
        ("registry.example/group", "registry.example/group/java"),
        ("localhost", "localhost/java"),
        ("docker.io", "java"),
        ("docker.io", "someone/java:21"),
        ("docker.io", "index.docker.io/someone/java"),
        ("https://index.docker.io/v1/", "java"),
    ],
)
def test_an_image_is_pulled_with_the_credentials_of_its_registry(key: str, image: str) -> None:
    registry = Registry("user", "password")
    assert registry_for({"other.example": Registry(), key: registry}, image) == registry


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("registry.example", "registry.example.org/java"),
        ("registry.example", "registry.example:5000/java"),
        ("registry.example", "java"),
        ("registry.example/group", "registry.example/groups/java"),
        ("docker.io", "registry.example/docker.io/java"),
        ("", "java"),
    ],
)
def test_credentials_go_to_no_other_registry(key: str, image: str) -> None:
    assert registry_for({key: Registry("user", "password")}, image) is None


def test_the_closest_credentials_count() -> None:
    host_wide, group = Registry("host"), Registry("group")
    registries = {"r.example/group": group, "r.example": host_wide}
    assert registry_for(registries, "r.example/group/java") == group
    assert registry_for(registries, "r.example/java") == host_wide
