"""The keys of the configuration, read from its classes."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import pytest
import yaml

from handbook.keys import Key, Undocumented, sections
from tests.config.test_config import EXAMPLE, leaves
from tests.support.configurations import config
from wingsd.config import positive
from wingsd.util.serialization import InvalidField

KEYS = {key.path: key for section in sections() for key in section.keys}


def test_each_key_of_the_configuration_is_there_with_its_words() -> None:
    paths = {path for path, _ in leaves(config())}
    # A map of sections is no key itself; those of one of its sections are.
    assert paths - KEYS.keys() == {"docker.registries", "system.history.servers"}
    assert {path for path in KEYS if path not in paths} == {
        "docker.registries.*.username",
        "docker.registries.*.password",
        "system.history.servers.*.every",
        "system.history.servers.*.keep",
        "system.history.servers.*.max_size",
    }
    assert all(key.words.endswith((".", ")")) for key in KEYS.values())


def test_each_default_is_the_one_that_counts() -> None:
    told = {"family"}  # by the rest of the file
    for path, value in leaves(config()):
        if path not in told and path in KEYS and not KEYS[path].is_required:
            assert KEYS[path].default == (list(value) if isinstance(value, tuple) else value)


def test_a_key_has_its_unit_and_bounds() -> None:
    assert KEYS["system.transfers.stall_timeout"] == Key(
        path="system.transfers.stall_timeout",
        kind="whole number",
        unit="seconds",
        default=120,
        others={},
        bounds="at least 1",
        words="An upload fails when nothing comes from its sender, or its destination "
        "acknowledges nothing, for this time.",
        is_required=False,
        is_secret=False,
        is_own=True,
    )


def test_defaults_of_families_are_those_that_count() -> None:
    others = [(key, *other) for key in KEYS.values() for other in key.others.items()]
    assert {family for _, family, _ in others} == {"Pelican", "Calagopus"}
    for key, family, value in others:
        assert dict(leaves(config(family=family.lower())))[key.path] == value != key.default


def test_secrets_and_what_has_no_default() -> None:
    assert {path for path, key in KEYS.items() if key.is_secret} == {
        "token",
        "docker.registries.*.password",
    }
    assert {path for path, key in KEYS.items() if key.is_required} == {
        "token_id",
        "token",
        "remote",
    }


@pytest.mark.parametrize(
    ("path", "kind", "unit"),
    [
        ("api.port", "whole number", ""),
        ("docker.network.dns", "list", ""),
        ("docker.overhead.default_multiplier", "number", ""),
        ("docker.overhead.multipliers", "map", ""),
        ("docker.log_config.config", "map", ""),
        ("system.transfers.durable", "true or false", ""),
        ("system.transfers.upload_limit", "whole number", "MiB/s"),
    ],
)
def test_kinds_and_units(path: str, kind: str, unit: str) -> None:
    assert (KEYS[path].kind, KEYS[path].unit) == (kind, unit)


def test_bounds_are_what_the_checks_say_of_themselves() -> None:
    assert KEYS["system.backups.compression_level"].bounds == (
        "one of none, best_speed, good_speed, good_compression, best_compression"
    )
    assert KEYS["api.port"].bounds == "1 to 65535"
    assert KEYS["docker.socket"].bounds == ""


@attrs.frozen
class _Silent:
    """All of it."""

    #: This one has words.
    spoken: int = 1
    silent: int = 2


def _check(*_: object) -> None:
    pass


@attrs.frozen
class _Checked:
    """All of it."""

    #: This one has words, and its check has none.
    bound: int = attrs.field(default=1, validator=_check)


@attrs.frozen
class _Misplaced:
    """`elsewhere`: not where it says."""

    #: A key.
    key: int = 1


@attrs.frozen
class _Above:
    """All of it."""

    here: _Misplaced = _Misplaced()


@pytest.mark.parametrize(
    ("config_class", "words"),
    [
        (_Silent, "silent has no comment"),
        (_Checked, "bound: its check"),
        (_Above, "must begin with `here`"),
    ],
)
def test_a_class_without_the_words_expected_is_an_error(config_class: type, words: str) -> None:
    with pytest.raises(Undocumented, match=words):
        sections(config_class)


@attrs.frozen
class _Small:
    """All of it."""

    #: A pause,
    #: with `code` (wingsd's own).
    pause: Annotated[int, "seconds"] = attrs.field(default=5, validator=positive)


@attrs.frozen
class _Own:
    """`own`: keys that Wings does not have (all of it wingsd's own)."""

    #: A key.
    key: int = 1


@attrs.frozen
class _WithOwn:
    """All of it."""

    own: _Own = _Own()


def test_a_section_may_be_wingsds_own_as_a_whole() -> None:
    _, section = sections(_WithOwn)
    assert section.words == "Keys that Wings does not have."
    assert [key.is_own for key in section.keys] == [True]


def test_the_example_shows_every_key() -> None:
    shown = yaml.safe_load(EXAMPLE.read_text())
    for path in KEYS:
        above, _, name = path.rpartition(".")
        section = shown
        for part in above.split(".") if above and "*" not in above else ():
            section = section[part]
        assert name in section or "*" in above, path


def test_a_comment_may_have_several_lines() -> None:
    ((key,),) = (section.keys for section in sections(_Small))
    assert (key.words, key.is_own, key.unit) == ("A pause, with `code`.", True, "seconds")


@pytest.mark.parametrize("value", [0, -1])
def test_the_bounds_hold(value: Any) -> None:
    with pytest.raises(InvalidField):
        _Small(value)
