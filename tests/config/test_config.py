"""The node's configuration file: what the Panel prints, and what people do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from tests.support.configurations import (
    LEAST,
    PRINTED,
    SECRET,
    WRITTEN_BY_WINGS,
    config,
    fault,
    faults,
)
from wingsd.config import differences, parse


def test_what_the_panel_prints() -> None:
    found, unknown = parse(PRINTED, "here")
    assert (found.token_id, found.token) == ("Ab12Cd34Ef56Gh78", SECRET)
    assert found.remote == "https://panel.example.com"
    assert (found.api.port, found.api.ssl.enabled) == (8443, True)
    assert found.system.data == "/srv/volumes"
    assert unknown == []


def test_the_defaults_are_those_of_wings() -> None:
    written, _ = parse(WRITTEN_BY_WINGS, "here")
    # Wings writes no multipliers, and uses its own while they are not overridden.
    assert differences(config(), written) == ["token_id", "uuid", "docker.overhead.multipliers"]


def test_wingsds_own_keys() -> None:
    found = config()
    assert found.system.transfers.durable is True
    assert found.system.transfers.stall_timeout == 120
    assert (found.system.transfers.upload_limit, found.system.transfers.nice) == (0, 10)
    assert (found.docker.enabled, found.docker.socket) == (True, "")
    found = config(
        system={"transfers": {"durable": False, "stall_timeout": 5}},
        docker={"enabled": False, "socket": "unix:///run/engine.sock"},
    )
    assert found.system.transfers.durable is False
    assert found.system.transfers.stall_timeout == 5
    assert (found.docker.enabled, found.docker.socket) == (False, "unix:///run/engine.sock")
    assert config().api.public_url == ""
    assert config().metrics.address == ""
    for where in ("127.0.0.1:9101", "[::1]:9101", "node.example.com:9101"):
        assert config(metrics={"address": where}).metrics.address == where
    address = "https://node.example.com:8080"
    assert config(api={"public_url": address}).api.public_url == address


def test_a_download_limit_below_0_is_none_as_wings_has_it() -> None:
    assert config(system={"transfers": {"download_limit": -1}}).system.transfers.download_limit < 0


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pool_has_a_name_only_where_it_is_enabled(enabled: bool) -> None:
    pool = {"enabled": enabled, "pool_name": "The Attic"}
    uuid = "8D2F5A14-6e2b-4c43-9d57-0c4c5e1c7f10" if enabled else ""
    found = config(uuid=uuid, system={"transfers": {"storage_pool": pool}})
    assert found.system.transfers.storage_pool.name == ("The Attic" if enabled else "")
    assert config().system.transfers.storage_pool.name == ""


def test_empty_maps_of_php_and_keys_without_a_value() -> None:
    found = config(docker={"registries": [], "network": []}, system=None, uuid=None)
    assert found == config()


def test_what_has_no_default_is_asked_for() -> None:
    assert fault("debug: true").splitlines()[1:] == [
        "token_id: is missing and has no default",
        "token: is missing and has no default",
        "remote: is missing and has no default",
    ]


@pytest.mark.parametrize("key", ["token_id", "token"])
def test_an_empty_credential_is_none(key: str) -> None:
    assert faults(**{key: ""}) == [f"{key}: must not be empty"]


REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yml").read_text())


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["error"].partition(":")[0])
def test_a_wrong_value_is_refused_with_its_path(case: dict[str, Any]) -> None:
    assert faults(**case["keys"]) == [case["error"]]


@pytest.mark.promise("secrets-are-not-shown")
@pytest.mark.parametrize(
    "text",
    [
        f"token: {SECRET}: more\nremote: x",
        f"token: '{SECRET}\nremote: https://panel.example.com",
        f"token: [{SECRET}]\ntoken_id: a\nremote: https://panel.example.com",
        f"token: {{{SECRET}: 1}}\ntoken_id: a\nremote: https://panel.example.com",
        f"- {SECRET}",
        SECRET,
        f"token: &{SECRET} *{SECRET}x",
        f"token: !{SECRET}",
        f"token: *{SECRET}",
        f"token: !!int {SECRET}",
    ],
)
def test_no_error_has_the_token(text: str) -> None:
    assert fault(text).startswith("here ")


def test_no_repr_has_the_token() -> None:
    found = config(docker={"registries": {"r": {"username": "u", "password": SECRET}}})
    assert found.docker.registries["r"].password == SECRET
    assert SECRET not in repr(found)


def test_an_error_in_the_yaml_has_its_line() -> None:
    assert fault("debug: true\napi: [\n") == "here is not YAML: see line 3, column 1"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file(text: str) -> None:
    assert "expected a map of keys and values, found nothing" in fault(text)


@pytest.mark.parametrize(
    ("system", "pelican"),
    [({}, False), ({"data": "/var/lib/pelican/volumes"}, True)],
)
def test_a_pelican_node_is_known_by_its_directories(system: dict[str, str], pelican: bool) -> None:
    assert config(system=system).is_pelican is pelican


@pytest.mark.parametrize(
    ("keys", "place", "family"),
    [
        ({}, "/etc/pterodactyl/config.yml", "pterodactyl"),
        ({}, "/etc/pelican/config.yml", "pelican"),
        ({}, "/home/pelican/config.yml", "pterodactyl"),
        ({"system": {"data": "/var/lib/pelican/volumes"}}, "/srv/config.yml", "pelican"),
        ({"app_name": "Calagopus"}, "/etc/pterodactyl/config.yml", "calagopus"),
        ({"family": "pterodactyl"}, "/etc/pelican/config.yml", "pterodactyl"),
        ({"family": "pelican"}, "/etc/pterodactyl/config.yml", "pelican"),
    ],
)
def test_a_nodes_family_is_known_by_its_file(keys: Any, place: str, family: str) -> None:
    found, unknown = parse(yaml.safe_dump(LEAST | keys), place)
    assert (found.family, unknown) == (family, [])
    assert found.is_pelican is (family == "pelican")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({}, "Pterodactyl"),
        ({"family": "pelican"}, "Pelican"),
        ({"family": "pelican", "app_name": None}, "Pelican"),
        ({"family": "pelican", "app_name": "Games"}, "Games"),
        ({"family": "calagopus"}, "Pterodactyl"),
    ],
)
def test_the_name_in_consoles_is_the_familys_where_it_is_not_written(
    keys: dict[str, Any], name: str
) -> None:
    assert config(**keys).app_name == name


def test_a_family_that_nobody_knows_is_refused() -> None:
    assert faults(family="pufferfish")[0].startswith("family: expected one of")


def test_pelicans_network_is_its_own_where_it_is_not_written() -> None:
    names = ("name", "network_mode", "bridge_name")

    def network(**keys: Any) -> list[str]:
        return [getattr(config(**keys).docker.network, name) for name in names]

    pterodactyls = ["pterodactyl_nw", "pterodactyl_nw", "pterodactyl0"]
    assert network() == network(family="calagopus") == pterodactyls
    assert network(family="pelican") == ["pelican_nw", "pelican_nw", "pelican0"]
    written = {"network": {"name": "games", "network_mode": "host", "bridge_name": "br0"}}
    assert network(family="pelican", docker=written) == ["games", "host", "br0"]
    partly = {"network": {"network_mode": "host"}, "tmpfs_size": 1}
    assert network(family="pelican", docker=partly) == ["pelican_nw", "host", "pelican0"]


def test_pelicans_directories_are_its_own_where_they_are_not_written() -> None:
    usual, pelican = config(), config(family="pelican", system={"log_directory": "/logs"})
    assert usual.system.backup_directory == "/var/lib/pterodactyl/backups"
    assert pelican.system.backup_directory == "/var/lib/pelican/backups"
    assert pelican.system.log_directory == "/logs"
    assert config(family="pelican").system.log_directory == "/var/log/pelican"
    assert pelican.system.machine_id.directory == "/etc/pelican/machine-id"
    written = {"machine_id": {"directory": "/ids", "enable": None}}
    assert config(family="pelican", system=written).system.machine_id.directory == "/ids"
    assert attrs.evolve(config(family="calagopus").system, sftp=usual.system.sftp) == usual.system


def test_limits_of_sftp_that_are_not_written_are_the_familys() -> None:
    usual, calagopus = (config(family=each).system.sftp.limits for each in ("", "calagopus"))
    assert (usual.authentication_password_attempts, usual.max_handles_per_channel) == (6, 128)
    assert (calagopus.authentication_password_attempts, calagopus.max_handles_per_channel) == (
        3,
        32,
    )
    written = {"sftp": {"limits": {"max_handles_per_channel": 7}}}
    found = config(family="calagopus", system=written).system.sftp.limits
    assert (found.authentication_password_attempts, found.max_handles_per_channel) == (3, 7)
