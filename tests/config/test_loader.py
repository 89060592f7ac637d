"""The configuration as a file: where it is, how it is read, and the example with every key."""

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
    WRITTEN_BY_CALAGOPUS,
    WRITTEN_BY_PELICAN,
    WRITTEN_BY_WINGS,
    config,
    merged,
)
from wingsd.config import PLACES, UNUSED, UNUSED_BY_DEFAULT, differences, find, load, parse
from wingsd.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent.parent / "etc" / "wingsd.example.yml"


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(PRINTED)
    assert load(str(path)) == parse(PRINTED, str(path))


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
    for path in (tmp_path, binary):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(str(path))


def test_the_first_place_that_is_there_is_the_one(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("none/config.yml", "a.yml", "b.yml")]
    for path in places[1:]:
        Path(path).touch()
    assert find(places) == places[1]


def test_its_own_place_comes_before_those_of_the_panels() -> None:
    assert PLACES == (
        "/etc/wingsd/config.yml",
        "/etc/pterodactyl/config.yml",
        "/etc/pelican/config.yml",
    )


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    link = tmp_path / "config.yml"
    link.symlink_to(tmp_path / "none")
    assert find([str(link)]) == str(link)


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


def test_a_storage_pool_without_name_and_uuid_is_refused_by_both_paths() -> None:
    path = "system.transfers.storage_pool.enabled"
    with pytest.raises(ConfigError) as refused:
        parse(yaml.safe_dump(with_value(path, True)), "here")
    _, pool, uuid = str(refused.value).splitlines()
    assert pool.startswith("system.transfers.storage_pool: ")
    assert uuid.startswith("uuid: ")
    assert concerns(pool, path)
    assert concerns(uuid, path)


@pytest.mark.promise("configuration-errors-are-named")
@given(data=st.data(), value=VALUES)
@settings(max_examples=300)
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
