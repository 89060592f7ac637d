"""The node's configuration file: what the Panel prints, and what people do to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.configurations import (
    LEAST,
    PRINTED,
    SECRET,
    WRITTEN_BY_CALAGOPUS,
    WRITTEN_BY_PELICAN,
    WRITTEN_BY_WINGS,
    config,
    fault,
    faults,
    merged,
)
from wingsd.config import UNUSED, UNUSED_BY_DEFAULT, Config, differences, find, load, parse
from wingsd.errors import ConfigError


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
    says = "family: expected one of pterodactyl, pelican, calagopus, found 'pufferfish'"
    assert faults(family="pufferfish") == [says]


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


# The configuration as a file: where it is, how it is read, and the example with every key


EXAMPLE = Path(__file__).parent.parent.parent / "etc" / "wingsd.example.yml"


def test_a_symlink_to_the_servers_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "volumes").symlink_to("disk")
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(LEAST | {"system": {"data": str(tmp_path / "volumes")}}))
    assert load(str(path))[0].system.data == str(tmp_path / "disk")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert str(path) in str(caught.value)
    assert "--config" in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"token: \xff")
    for path, says in ((tmp_path, "cannot be read"), (binary, "is not UTF-8 text, see byte 7")):
        with pytest.raises(ConfigError, match=says):
            load(str(path))


def test_the_first_place_that_is_there_is_the_one(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("none/config.yml", "a.yml", "b.yml")]
    for path in places[1:]:
        Path(path).touch()
    assert find(places) == places[1]


def test_a_missing_file_is_reported_with_the_places_searched(tmp_path: Path) -> None:
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(ConfigError) as caught:
        find(places)
    assert all(place in str(caught.value) for place in places)
    assert "--config" in str(caught.value)
    assert "Configuration tab" in str(caught.value)


def test_a_place_that_cannot_be_looked_at_is_not_passed_over(tmp_path: Path) -> None:
    too_long = str(tmp_path / ("x" * 300))
    with pytest.raises(ConfigError, match="cannot be accessed: File name too long"):
        find([too_long, str(tmp_path)])


def test_differences_are_named_by_key_alone() -> None:
    one, _ = parse(yaml.safe_dump(LEAST), "one")
    changes = {
        "token": "another",
        "debug": True,
        "api": {"ssl": {"cert": "/c"}},
        "docker": {"registries": {"registry.example.com": {"username": "u", "password": "p"}}},
    }
    other, _ = parse(yaml.safe_dump(LEAST | changes), "other")
    assert differences(one, one) == []
    assert differences(one, other) == ["token", "debug", "api.ssl.cert", "docker.registries"]


def test_the_example_has_no_unknown_keys() -> None:
    _, unknown = load(str(EXAMPLE))
    assert unknown == []


@pytest.mark.parametrize("added", [{}, WRITTEN_BY_PELICAN, WRITTEN_BY_CALAGOPUS])
def test_what_the_families_write_into_the_file_is_known(added: dict[str, Any]) -> None:
    written = merged(yaml.safe_load(WRITTEN_BY_WINGS), added)
    assert parse(yaml.safe_dump(written), "here")[1] == []


@pytest.mark.parametrize(
    ("keys", "unknown"),
    [
        ({"system": {"sftp": {"bind_prot": 2022}}}, ["system.sftp.bind_prot"]),
        ({"system": {"sftpp": {"bind_port": 2022}}}, ["system.sftpp"]),
        ({"api": {"upload_limits": 5, "upload_limit": 5}}, ["api.upload_limits"]),
        ({"upload_limit": 5}, ["upload_limit"]),
        ({"system": {"sftp": None}, "throttles": {}}, []),
    ],
)
def test_a_misspelt_key_is_named(keys: dict[str, Any], unknown: list[str]) -> None:
    assert parse(yaml.safe_dump(LEAST | keys), "here")[1] == unknown


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"docker": {"network": {"IPv6": False}}}, "docker.network.IPv6"),
        ({"docker": {"network": {"mode": "host"}}}, "docker.network.mode"),
        ({"remote_query": {"custom_headers": {"X-Key": "1"}}}, "remote_query.custom_headers"),
        ({"remote_headers": {"X-Key": "1"}}, "remote_headers"),
    ],
)
def test_a_value_without_effect_here_is_reported(keys: dict[str, Any], path: str) -> None:
    assert parse(yaml.safe_dump(LEAST | keys), "here")[1] == [path]


def test_no_key_is_both_used_and_unused() -> None:
    used = {path for path, _ in leaves(config())}
    assert not used & (UNUSED | UNUSED_BY_DEFAULT.keys())


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in attrs.fields(type(value)):
        here = f"{path}.{field.name}" if path else field.name
        inner = getattr(value, field.name)
        if attrs.has(type(inner)):
            yield from leaves(inner, here)
        else:
            yield here, inner


def test_the_example_shows_the_defaults() -> None:
    found, _ = load(str(EXAMPLE))
    shown, default = dict(leaves(found)), dict(leaves(config()))
    # Written as people write them; the engine gets texts either way.
    log_config = shown["docker.log_config.config"]
    shown["docker.log_config.config"] = {
        key: str(value).lower() for key, value in log_config.items()
    }
    own = {key for key in shown if shown[key] != default[key]}
    assert own == {
        "uuid",
        "token_id",
        "token",
        "api.ssl.enabled",
        "api.ssl.cert",
        "api.ssl.key",
    }


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=8)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1", max_size=3), inner),
    max_leaves=4,
)


def with_value(path: str, value: Any) -> dict[str, Any]:
    """Return a configuration with `value` at a dotted path."""
    *above, name = path.split(".")
    keys: dict[str, Any] = {name: value}
    for name in reversed(above):
        keys = {name: keys}
    return LEAST | keys


def concerns(line: str, path: str) -> bool:
    """Whether a line of an error names the key at `path`, a key below it, or a map it is in."""
    place = line.partition(": ")[0]
    named = [place, *line.split()]  # another key may be needed "since system.x is enabled"
    return place.startswith(path) or any(path.startswith(f"{each}.") for each in named)


@pytest.mark.promise("configuration-errors-are-named")
@given(data=st.data(), value=VALUES)
@settings(max_examples=100)
def test_any_value_is_used_or_refused_by_its_path(data: st.DataObject, value: Any) -> None:
    path = data.draw(st.sampled_from([path for path, _ in leaves(config())]))
    text = yaml.safe_dump(with_value(path, value))
    try:
        found, unknown = parse(text, "here")
    except ConfigError as error:
        first, *rest = str(error).splitlines()
        assert first == "here cannot be used:"
        assert rest
        assert all(concerns(line, path) for line in rest)
    else:
        assert unknown == []
        kind = type(dict(leaves(config()))[path])
        assert isinstance(dict(leaves(found))[path], kind)


# Credentials that the file does not contain itself


FILE = "token_id: {}\ntoken: {}\nremote: https://panel.example.com\n"


def credentials(text: str, **environ: str) -> tuple[str, str]:
    config, _ = parse(text, "config.yml", environ)
    return config.token_id, config.token


def test_they_may_name_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t\r\n")
    text = FILE.format("$ID", "file://${CREDENTIALS_DIRECTORY}/token")
    found = credentials(text, ID="abc", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert found == ("abc", "s3cr3t")


def test_wings_variables_replace_them() -> None:
    environ = {"WINGS_TOKEN_ID": "other", "WINGS_TOKEN": "$HIDDEN", "HIDDEN": "s3cr3t"}
    assert credentials(FILE.format("a", "b"), **environ) == ("other", "s3cr3t")
    assert credentials("remote: https://panel.example.com", **environ) == ("other", "s3cr3t")
    assert credentials(FILE.format("a", "b"), WINGS_TOKEN="") == ("a", "b")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("$MISSING", "token: the variable MISSING, which it names, is not set"),
        ("file:///nowhere/token", "token: /nowhere/token, which it names, cannot be read"),
        ("$EMPTY", "token: what it names is empty"),
    ],
)
def test_what_is_missing_is_named(token: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials(FILE.format("a", token), EMPTY="")
    assert reason in str(caught.value)


# Which web pages may use the node


def allows(origin: str, *others: str, remote: str = "https://Panel.example.com/panel/") -> bool:
    config = Config(token_id="i", token="t", remote=remote, allowed_origins=others)
    return config.allows_origin(origin)


@pytest.mark.parametrize(
    "origin",
    ["https://panel.example.com", "https://PANEL.example.com", "https://panel.example.com:443"],
)
def test_the_panels_origin_is_allowed(origin: str) -> None:
    assert allows(origin)


@pytest.mark.promise("console-needs-its-origin")
@pytest.mark.parametrize(
    "origin",
    [
        "http://panel.example.com",
        "https://panel.example.com:8443",
        "https://evil.invalid/panel.example.com",
        "https://[",
        "null",
        "",
    ],
)
def test_other_origins_are_refused(origin: str) -> None:
    assert not allows(origin)
    assert not allows(origin, "https://status.example.com")


def test_configured_origins_are_allowed() -> None:
    assert allows("https://status.example.com", "https://status.example.com/")
    assert allows("http://localhost:3000", "https://x.invalid", "http://localhost:3000")
    assert not allows("http://localhost:3001", "http://localhost:3000")


def test_the_port_is_part_of_the_origin() -> None:
    assert allows("http://127.0.0.1:8000", remote="http://127.0.0.1:8000")
    assert not allows("http://127.0.0.1", remote="http://127.0.0.1:8000")


def test_a_star_allows_every_origin() -> None:
    assert allows("https://anything.invalid", "*")
    assert allows("null", "*")
