"""What Docker is asked for, as plain values: containers, images, ports and networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.docker.containers import NODE, SERVER, UUID, body, environment, host, node
from tests.support.present import present
from wingsd.config import (
    Config,
    Interfaces,
    IPv6,
    LogConfig,
    NetworkConfig,
    Overhead,
    Registry,
    Rootless,
    SystemConfig,
    User,
    parse,
)
from wingsd.docker.container import (
    FORMER_DEFAULTS,
    ImageSource,
    NetworkSpec,
    container_spec,
    image_source,
    network_mode,
    network_spec,
    port_bindings,
    reachable,
    service_label,
    with_mounts,
)
from wingsd.docker.containers import registry_for
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Allocations, Build, Default, Image, Mount, Settings
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


def on(**network: Any) -> Config:
    return node(network=NetworkConfig(**network))


def bound_to(ip: str, forced: bool = True) -> Settings:
    return Settings("uuid", allocations=Allocations(forced, Default(ip, 25565)))


def test_the_main_network_is_wings_own() -> None:
    body = json.loads(Path(__file__).with_name("network.json").read_text())
    assert network_spec(on(), Settings("uuid")) == NetworkSpec("pterodactyl_nw", body)


def test_the_main_network_follows_the_configuration() -> None:
    config = on(
        enable_icc=False,
        is_internal=True,
        network_mtu=1420,
        bridge_name="wings1",
        interfaces=Interfaces(v6=IPv6(subnet="", gateway="")),
    )
    spec = present(network_spec(config, Settings("uuid")))
    assert spec.body is not None
    assert spec.body["Internal"]
    assert not spec.body["EnableIPv6"]
    assert len(spec.body["IPAM"]["Config"]) == 1
    assert spec.body["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert spec.body["Options"]["com.docker.network.driver.mtu"] == "1420"
    assert spec.body["Options"]["com.docker.network.bridge.name"] == "wings1"


@pytest.mark.parametrize("mode", ["host", "none", "bridge", "container:other"])
def test_the_engines_own_modes_need_no_network(mode: str) -> None:
    assert network_spec(on(network_mode=mode), Settings("uuid")) is None
    assert network_mode(on(network_mode=mode), Settings("uuid")) == mode


def test_a_node_of_pelicans_that_had_pterodactyls_default_is_one_of_the_former() -> None:
    was = Config(token_id="id", token="secret", remote="http://panel").docker.network
    now, _ = parse("{token_id: i, token: t, remote: 'http://panel', family: pelican}", "here")
    assert {now.docker.network.name: was.name} == FORMER_DEFAULTS


def test_a_network_of_the_administrators_has_to_exist() -> None:
    assert network_spec(on(network_mode="theirs"), Settings("uuid")) == NetworkSpec("theirs")


@pytest.mark.parametrize(
    ("ip", "name"),
    [("203.0.113.7", "ip-203-0-113-7"), ("2001:db8::1", "ip-2001-db8--1")],
)
def test_a_forced_outgoing_address_has_a_bridge_of_its_own(ip: str, name: str) -> None:
    assert network_mode(on(), bound_to(ip)) == name
    assert network_spec(on(), bound_to(ip)) == NetworkSpec(
        name,
        {
            "Driver": "bridge",
            "EnableIPv6": False,
            "Internal": False,
            "Options": {
                "encryption": "false",
                "com.docker.network.bridge.default_bridge": "false",
                "com.docker.network.host_ipv4": ip,
            },
        },
    )


@pytest.mark.parametrize("ip", ["", "0.0.0.0", "127.0.0.1", "::", "a name"])  # noqa: S104
def test_what_is_no_source_address_cannot_be_forced(ip: str) -> None:
    assert network_mode(on(), bound_to(ip)) == "pterodactyl_nw"


def test_an_outgoing_address_is_forced_only_on_request() -> None:
    assert network_mode(on(), bound_to("203.0.113.7", forced=False)) == "pterodactyl_nw"


def test_ports_are_bound_on_tcp_and_udp() -> None:
    allocations = Allocations(mappings={"203.0.113.7": (25565,), "203.0.113.8": (25565, 25570)})
    first = {"HostIp": "203.0.113.7", "HostPort": "25565"}
    second = {"HostIp": "203.0.113.8", "HostPort": "25565"}
    third = {"HostIp": "203.0.113.8", "HostPort": "25570"}
    assert port_bindings(on(), allocations) == {
        "25565/tcp": [first, second],
        "25565/udp": [first, second],
        "25570/tcp": [third],
        "25570/udp": [third],
    }


def test_the_loopback_is_the_network_interface() -> None:
    config = on(interface="172.30.0.1")
    assert reachable(config, "127.0.0.1") == "172.30.0.1"
    assert reachable(config, "127.0.0.2") == "127.0.0.2"
    bindings = port_bindings(config, Allocations(mappings={"127.0.0.1": (1,)}))
    assert bindings["1/tcp"] == [{"HostIp": "172.30.0.1", "HostPort": "1"}]


def test_the_loopback_is_dropped_with_ispn() -> None:
    allocations = Allocations(mappings={"127.0.0.1": (1, 2), "203.0.113.7": (2,)})
    assert port_bindings(on(ispn=True), allocations) == {
        "2/tcp": [{"HostIp": "203.0.113.7", "HostPort": "2"}],
        "2/udp": [{"HostIp": "203.0.113.7", "HostPort": "2"}],
    }


@given(
    st.dictionaries(
        st.sampled_from(["127.0.0.1", "172.18.0.1", "0.0.0.0", "203.0.113.7"]),  # noqa: S104
        st.lists(st.integers(-1, 70_000)).map(tuple),
    ),
    st.booleans(),
)
def test_bindings_are_valid_and_unique(mappings: dict[str, tuple[int, ...]], ispn: bool) -> None:
    bindings = port_bindings(on(ispn=ispn), Allocations(mappings=mappings))
    for port, addresses in bindings.items():
        number, protocol = port.split("/")
        assert 1 <= int(number) <= 65535
        assert protocol in ("tcp", "udp")
        assert addresses
        assert len({address["HostIp"] for address in addresses}) == len(addresses)
        assert all(address["HostPort"] == number for address in addresses)
        assert all(address["HostIp"] != "127.0.0.1" for address in addresses)
