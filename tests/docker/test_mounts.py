"""Which mounts are allowed: judged on real directories and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wingsd.docker.container import check_mounts
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Mount


@pytest.fixture
def host(tmp_path: Path) -> str:
    """A host with an allowed directory `a`, one beside it, and links within `a`."""
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    (tmp_path / "secret").mkdir()
    links = {
        "a/inside": "b/c",
        "a/outside": "../secret",
        "a/absolute": str(tmp_path / "secret"),
        "a/twice": "absolute",
        "a/up": "..",
        "a/dangling": "nowhere",
        "a/loop": "loop",
        "to_a": "a",
    }
    for name, leads_to in links.items():
        (tmp_path / name).symlink_to(leads_to)
    return str(tmp_path)


def judge(host: str, allowed: str, source: str) -> tuple[list[Mount], list[Mount]]:
    return check_mounts([allowed.format(host)], [Mount(source.format(host), "/data")])


@pytest.mark.parametrize(
    ("allowed", "source", "real"),
    [
        ("{}/a", "{}/a", "{}/a"),
        ("{}/a/", "{}/a", "{}/a"),
        ("{}/a", "{}/a//b/./c", "{}/a/b/c"),
        ("/{}/a", "{}/a/b", "{}/a/b"),
        ("{}/a", "/{}/a/b", "{}/a/b"),
        ("{}/ab/../a", "{}/a/b", "{}/a/b"),
        ("/", "{}/secret", "{}/secret"),
        ("{}/a", "{}/a/inside", "{}/a/b/c"),
        ("{}/to_a", "{}/to_a/b", "{}/a/b"),
        ("{}/to_a", "{}/a/b", "{}/a/b"),
        ("{}/a", "{}/to_a/b", "{}/a/b"),
        ("{}/a", "{}/a/up/a/b", "{}/a/b"),
    ],
)
def test_mounts_that_are_allowed(host: str, allowed: str, source: str, real: str) -> None:
    assert judge(host, allowed, source) == ([Mount(real.format(host), "/data")], [])


@pytest.mark.promise("container-mounts-are-allowed-ones")
@pytest.mark.parametrize(
    ("allowed", "source"),
    [
        ("{}/a", "{}/ab"),
        ("{}/a", "{}"),
        ("{}/a", "{}/a/../../etc"),
        ("{}/a", "{}/a/../secret"),
        ("{}/a", "{}/nowhere"),
        ("{}/a", "a/b"),
        ("{}/a", ""),
        ("{}/a", "/\0"),
        ("a", "{}/a"),
        ("", "{}/a"),
        ("{}/nowhere", "{}/a"),
    ],
)
def test_mounts_that_are_not_allowed(host: str, allowed: str, source: str) -> None:
    permitted, (_,) = judge(host, allowed, source)
    assert permitted == []


@pytest.mark.promise("container-mounts-are-allowed-ones")
@pytest.mark.parametrize("link", ["outside", "absolute", "twice", "up/secret", "up/a/outside"])
def test_a_link_that_leads_out_is_refused_with_its_target(host: str, link: str) -> None:
    source = f"{host}/a/{link}"
    refused = Mount(f"{source} ({host}/secret)", "/data")
    assert judge(host, "{}/a", source) == ([], [refused])


@pytest.mark.parametrize("name", ["dangling", "loop", "nowhere", "nul\0"])
def test_an_unreadable_allowed_directory_fails_the_start(host: str, name: str) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        judge(host, "{}/a", f"{{}}/a/{name}")
    assert f"the mount of {host}/a/{name} cannot be made: " in caught.value.detail


def test_a_link_that_is_changed_afterwards_changes_nothing(host: str) -> None:
    allowed, _ = judge(host, "{}/a", "{}/a/inside")
    os.unlink(f"{host}/a/inside")
    os.symlink("../secret", f"{host}/a/inside")
    assert [mount.source for mount in allowed] == [f"{host}/a/b/c"]


def test_target_and_mode_of_a_mount_stay(host: str) -> None:
    (mount,), _ = check_mounts([host], [Mount(f"{host}/a", "/data//x/", read_only=True)])
    assert mount == Mount(f"{host}/a", "/data/x", read_only=True)


def test_without_allowed_mounts_there_are_none(host: str) -> None:
    mounts = [Mount("/", "/x"), Mount(host, "/y")]
    assert check_mounts([], mounts) == ([], mounts)


NAMES = ["a", "b", "c", "ab", "..", ".", "", "inside", "outside", "absolute", "up", "secret"]


@given(st.lists(st.sampled_from(NAMES)).map("/".join))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out_of_an_allowed_directory(host: str, path: str) -> None:
    try:
        allowed, _ = judge(host, "{}/a", f"{{}}/a/{path}")
    except EnvironmentFailed:
        return
    for mount in allowed:
        assert os.path.realpath(mount.source) == mount.source
        assert mount.source == f"{host}/a" or mount.source.startswith(f"{host}/a/")
