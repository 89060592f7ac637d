"""The node's configuration file: what the Panel prints, and what people do to it."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"api": {"port": "8080"}}, "api.port: expected a whole number, found a text"),
        ({"api": {"port": True}}, "api.port: expected a whole number, found true or false"),
        ({"api": {"port": 0}}, "api.port: expected a port from 1 to 65535, found 0"),
        ({"api": {"port": 65536}}, "api.port: expected a port from 1 to 65535, found 65536"),
        (
            {"api": {"ssl": {"enabled": "yes"}}},
            "api.ssl.enabled: expected true or false, found a text",
        ),
        (
            {"api": {"ssl": {"enabled": True, "cert": "/c"}}},
            "api.ssl: expected cert and key, the paths of two PEM files, since it is enabled",
        ),
        (
            {
                "uuid": "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10",
                "system": {"transfers": {"storage_pool": {"enabled": True}}},
            },
            "system.transfers.storage_pool: expected pool_name, since it is enabled",
        ),
        (
            {"system": {"transfers": {"storage_pool": {"enabled": True, "pool_name": "a"}}}},
            "uuid: expected that of the node, as the Panel prints it, since "
            "system.transfers.storage_pool is enabled",
        ),
        (
            {"system": {"transfers": {"storage_pool": {"pool_name": "a\nb"}}}},
            "system.transfers.storage_pool.pool_name: expected printable ASCII without spaces at "
            "the ends, found 'a\\nb'",
        ),
        ({"api": 5}, "api: expected a map of keys and values, found a whole number"),
        (
            {"system": {"data": "volumes"}},
            "system.data: expected an absolute path, found 'volumes'",
        ),
        (
            {"system": {"transfers": {"stall_timeout": 0}}},
            "system.transfers.stall_timeout: expected a number above 0, found 0",
        ),
        (
            {"system": {"transfers": {"upload_limit": -1}}},
            "system.transfers.upload_limit: expected 0 or more, found -1",
        ),
        (
            {"system": {"transfers": {"nice": 20}}},
            "system.transfers.nice: expected a nice value from 0 to 19, found 20",
        ),
        (
            {"system": {"transfers": {"nice": -1}}},
            "system.transfers.nice: expected a nice value from 0 to 19, found -1",
        ),
        (
            {"system": {"transfers": {"durable": "no"}}},
            "system.transfers.durable: expected true or false, found a text",
        ),
        (
            {"system": {"user": {"uid": "root"}}},
            "system.user.uid: expected a whole number, found a text",
        ),
        (
            {"docker": {"network": {"dns": "1.1.1.1"}}},
            "docker.network.dns: expected a list, found a text",
        ),
        (
            {"docker": {"registries": {"registry.example.com": {"password": 5}}}},
            "docker.registries['registry.example.com'].password: "
            "expected a text, found a whole number",
        ),
        (
            {"allowed_mounts": ["/a", 5]},
            "allowed_mounts[1]: expected a text, found a whole number",
        ),
        (
            {"remote": "panel.example.com"},
            "remote: expected an http:// or https:// address, found 'panel.example.com'",
        ),
        (
            {"api": {"public_url": "node.example.com:8080"}},
            "api.public_url: expected an address such as https://node.example.com:8080, "
            "found 'node.example.com:8080'",
        ),
        (
            {"api": {"public_url": "https://node.example.com:80800"}},
            "api.public_url: expected an address such as https://node.example.com:8080, "
            "found 'https://node.example.com:80800'",
        ),
        (
            {"metrics": {"address": ":9101"}},
            "metrics.address: expected an address such as 127.0.0.1:9101 or [::1]:9101, found "
            "':9101'",
        ),
        *(
            (
                {"metrics": {"address": wrong}},
                f"metrics.address: expected an address such as 127.0.0.1:9101 or [::1]:9101, "
                f"found '{wrong}'",
            )
            for wrong in (
                "9101",
                "::1:9101",
                "[::1",
                "127.0.0.1:port",
                "127.0.0.1:99999",
                "127.0.0.1",
                "http://127.0.0.1:9101",
                "127.0.0.1:9101/metrics",
                "me@127.0.0.1:9101",
            )
        ),
        (
            {"api": {"public_url": "ftp://node.example.com"}},
            "api.public_url: expected an http:// or https:// address, "
            "found 'ftp://node.example.com'",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(keys: dict[str, Any], what: str) -> None:
    assert faults(**keys) == [what]


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
def test_no_error_tells_the_token(text: str) -> None:
    assert fault(text).startswith("here ")


def test_no_repr_tells_the_token() -> None:
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
def test_a_pelican_node_is_told_by_its_directories(system: dict[str, str], pelican: bool) -> None:
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
def test_a_nodes_family_is_told_by_its_file(keys: Any, place: str, family: str) -> None:
    found, unknown = parse(yaml.safe_dump(LEAST | keys), place)
    assert (found.family, unknown) == (family, [])
    assert found.is_pelican is (family == "pelican")


def test_a_family_that_nobody_knows_is_refused() -> None:
    assert faults(family="pufferfish")[0].startswith("family: expected one of")


def test_pelicans_directories_are_its_own_where_they_are_not_written() -> None:
    usual, pelican = config(), config(family="pelican", system={"log_directory": "/logs"})
    assert usual.system.backup_directory == "/var/lib/pterodactyl/backups"
    assert pelican.system.backup_directory == "/var/lib/pelican/backups"
    assert pelican.system.log_directory == "/logs"
    assert config(family="pelican").system.log_directory == "/var/log/pelican"
    assert config(family="calagopus").system == usual.system
