"""Tests for `wingsd.docker.container`: what Docker is asked for, as plain values."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.docker.containers import NODE, SERVER, UUID, body, environment, host, node
from wingsd.config import LogConfig, NetworkConfig, Overhead, Rootless, SystemConfig, User
from wingsd.docker.container import container_spec, service_label, with_mounts
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Allocations, Build, Default, Mount
from wingsd.util.serialization import InvalidField


def test_the_container_is_the_one_that_wings_makes() -> None:
    spec = container_spec(NODE, SERVER)
    assert spec.name == UUID
    assert spec.body == json.loads(Path(__file__).with_name("container.json").read_text())


def test_the_node_decides_what_all_its_containers_share() -> None:
    config = node(
        domainname="games.example",
        tmpfs_size=64,
        container_pid_limit=99,
        userns_mode="host",
        log_config=LogConfig("json-file", {"max-file": 3, "compress": True}),
        network=NetworkConfig(dns=("9.9.9.9",), network_mode="host"),
    )
    settings = body(config)["HostConfig"]
    assert body(config)["Domainname"] == "games.example"
    assert settings["Tmpfs"] == {"/tmp": "rw,exec,nosuid,size=64M"}
    assert settings["PidsLimit"] == 99
    assert settings["UsernsMode"] == "host"
    assert settings["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-file": "3", "compress": "true"},
    }
    assert settings["Dns"] == ["9.9.9.9"]
    assert settings["NetworkMode"] == "host"


def test_rootless_ids_take_the_place_of_the_users() -> None:
    ids = User(1000, 1001, Rootless(container_uid=5, container_gid=6))
    config = attrs.evolve(NODE, system=SystemConfig(user=ids))
    assert body(config)["User"] == "1000:1001"
    rootless = attrs.evolve(ids, rootless=attrs.evolve(ids.rootless, enabled=True))
    assert body(attrs.evolve(NODE, system=SystemConfig(user=rootless)))["User"] == "5:6"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b=c", "a b=c"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (3.0, "3"),
        (0.5, "0.5"),
        (-2.0, "-2"),
    ],
)
def test_variables_and_labels_are_texts(value: object, text: str) -> None:
    assert environment(environment={"max_players": value})["MAX_PLAYERS"] == text
    assert body(labels={"key": value})["Labels"]["key"] == text


@pytest.mark.promise("node-variables-stay")
@pytest.mark.parametrize(
    "name", ["", "STARTUP=sh -c evil;", "A=", "A\nB", "A\rB", "A\0B", "A\x85B", "A\u2028B", "\x1b"]
)
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        body(environment={"GOOD": "1", name: "x"})
    detail = caught.value.detail
    assert detail.startswith(f"{name!r} cannot be the name of an environment variable")
    assert "correct it in the server's settings" in detail


def test_a_long_name_is_named_by_its_ends() -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        body(environment={"A" * 10_000 + "=": "x"})
    assert len(caught.value.detail) < 200


def test_a_nul_character_is_refused_where_docker_takes_none() -> None:
    with pytest.raises(EnvironmentFailed, match="the environment variable 'MOTD' has a NUL"):
        body(environment={"MOTD": "a\0b"})
    with pytest.raises(EnvironmentFailed, match="the startup command has a NUL"):
        body(invocation="java\0")


def test_the_lines_of_a_value_are_kept() -> None:
    assert environment(environment={"MOTD": "a\nb=c"})["MOTD"] == "a\nb=c"


def test_a_null_variable_is_left_to_the_image() -> None:
    assert "NOTHING" not in environment(environment={"NOTHING": None})


@pytest.mark.promise("node-variables-stay")
def test_the_nodes_own_variables_and_labels_stay() -> None:
    config = attrs.evolve(NODE, system=SystemConfig(timezone="Europe/Berlin"))
    given_values = {"tz": "UTC", "STARTUP": "evil", "server_port": 1}
    variables = environment(config, environment=given_values)
    assert variables["TZ"] == "Europe/Berlin"
    assert variables["STARTUP"] == "java -jar server.jar"
    assert variables["SERVER_PORT"] == "25565"
    assert len(body(environment=given_values)["Env"]) == 5
    assert body(labels={"Service": "other"})["Labels"]["Service"] == "Pterodactyl"


@pytest.mark.parametrize(
    ("family", "label"),
    [("pterodactyl", "Pterodactyl"), ("pelican", "Pelican"), ("calagopus", "Games")],
)
def test_the_label_of_the_service_is_that_of_the_family(family: str, label: str) -> None:
    config = attrs.evolve(NODE, family=family, app_name="Games")
    assert service_label(config) == label


def test_the_servers_loopback_is_the_network_interface() -> None:
    allocations = Allocations(default=Default("127.0.0.1", 1), mappings={"127.0.0.1": (1,)})
    assert environment(allocations=allocations)["SERVER_IP"] == "172.18.0.1"
    bindings = body(allocations=allocations)["HostConfig"]["PortBindings"]
    assert bindings["1/udp"] == [{"HostIp": "172.18.0.1", "HostPort": "1"}]


@pytest.mark.parametrize(
    ("limit", "memory"),
    [
        (1, 1_150_000),
        (2048, 2_355_200_000),
        (2049, 2_253_900_000),
        (4096, 4_505_600_000),
        (4097, 4_301_850_000),
    ],
)
def test_memory_has_an_overhead(limit: int, memory: int) -> None:
    settings = host(memory_limit=limit)
    assert settings["Memory"] == memory
    assert settings["MemoryReservation"] == limit * 1_000_000
    assert settings["MemorySwap"] == memory


def test_the_overhead_can_be_configured() -> None:
    multipliers = {"10000": 1.5, "512": 2.0}
    ours = node(overhead=Overhead(True, default_multiplier=1.25, multipliers=multipliers))
    assert host(ours, memory_limit=512)["Memory"] == 1_024_000_000
    assert host(ours, memory_limit=513)["Memory"] == 769_500_000
    assert host(ours, memory_limit=10001)["Memory"] == 12_501_250_000
    ignored = node(overhead=Overhead(False, 1.25, multipliers))
    assert host(ignored, memory_limit=512)["Memory"] == 588_800_000


def test_an_overhead_is_keyed_by_megabytes() -> None:
    with pytest.raises(InvalidField, match="whole numbers of MB as keys, found '2g'"):
        Overhead(True, multipliers={"2g": 1.1})


def test_a_reservation_is_never_above_the_limit() -> None:
    tight = node(overhead=Overhead(True, default_multiplier=0.5, multipliers={}))
    assert host(tight, memory_limit=100)["MemoryReservation"] == 50_000_000


def test_a_megabyte_is_larger_for_pelican() -> None:
    pelican = attrs.evolve(NODE, system=SystemConfig(data="/var/lib/pelican/volumes"))
    settings = host(pelican, memory_limit=100, swap=10)
    assert settings["MemoryReservation"] == 104_857_600
    assert settings["Memory"] == 120_586_240
    assert settings["MemorySwap"] == 120_586_240 + 10_485_760


@pytest.mark.promise("calagopus-memory-limits")
@pytest.mark.parametrize(
    ("swap", "both"), [(-1, -1), (0, 0), (10, 120_586_240 + 10_485_760)], ids=str
)
def test_calagopus_counts_in_mebibytes_and_sets_no_swap_limit_for_none(
    swap: int, both: int
) -> None:
    settings = host(attrs.evolve(NODE, family="calagopus"), memory_limit=100, swap=swap)
    assert settings["MemoryReservation"] == 104_857_600
    assert settings["Memory"] == 120_586_240
    # 0 is the engine's default: as much swap as memory.
    assert settings["MemorySwap"] == both


@pytest.mark.promise("calagopus-memory-limits")
def test_calagopus_overhead_is_added_to_the_limit_and_not_named_to_the_server() -> None:
    calagopus = attrs.evolve(NODE, family="calagopus")
    settings = host(calagopus, memory_limit=100, overhead_memory=60)
    assert (settings["Memory"], settings["MemoryReservation"]) == (184 << 20, 160 << 20)
    assert host(calagopus, memory_limit=0, overhead_memory=60)["Memory"] == 0
    assert environment(build=Build(100, overhead_memory=60))["SERVER_MEMORY"] == "100"


@pytest.mark.parametrize(("swap", "both"), [(-1, -1), (0, 0), (512, 0)])
def test_memory_without_a_limit(swap: int, both: int) -> None:
    settings = host(memory_limit=0, swap=swap)
    assert (settings["Memory"], settings["MemoryReservation"]) == (0, 0)
    assert settings["MemorySwap"] == both


@given(st.integers(0, 2**20), st.integers(-1, 2**20), st.floats(0.01, 10))
def test_limits_are_such_as_the_engine_takes(limit: int, swap: int, factor: float) -> None:
    config = node(overhead=Overhead(True, default_multiplier=factor, multipliers={}))
    settings = host(config, memory_limit=limit, swap=swap)
    memory, both = settings["Memory"], settings["MemorySwap"]
    assert isinstance(memory, int)
    assert settings["MemoryReservation"] <= memory
    assert both in (-1, 0) or both >= memory
    assert memory or both <= 0


def test_cpu_limits_are_set_only_when_there_are_any() -> None:
    settings = host(cpu_limit=0, threads=None)
    assert not {"CpuQuota", "CpuPeriod", "CpuShares", "CpusetCpus"} & settings.keys()


def test_either_panels_word_for_the_oom_killer_counts() -> None:
    assert host(oom_disabled=True)["OomKillDisable"] is True
    assert host(oom_killer=True)["OomKillDisable"] is False
    assert host(oom_killer=False)["OomKillDisable"] is True


def test_mounts_come_after_the_servers_own_files() -> None:
    spec = container_spec(NODE, SERVER)
    with_one = with_mounts(spec, [Mount("/mnt/a/b", "/data", read_only=True)])
    own, added = with_one.body["HostConfig"]["Mounts"]
    assert [own] == spec.body["HostConfig"]["Mounts"]
    assert added == {
        "Type": "bind",
        "Source": "/mnt/a/b",
        "Target": "/data",
        "ReadOnly": True,
    }
