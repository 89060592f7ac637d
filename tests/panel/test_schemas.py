"""A server as the Panel tells it, with PHP's ways of writing nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import process_configuration, server_settings
from wingsd.errors import InvalidData
from wingsd.panel.schemas import (
    Build,
    ConfigurationFile,
    Default,
    Mount,
    Process,
    Replacement,
    Settings,
    Startup,
    Stop,
    configuration_from_panel,
)
from wingsd.util.text import canonical_uuid

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"

ANSWER = Path(__file__).with_name("answer.json").read_text()


def server(**overrides: Any) -> Settings:
    return configuration_from_panel({"settings": server_settings(UUID, **overrides)}).settings


def test_a_panels_answer() -> None:
    found = configuration_from_panel(json.loads(ANSWER)).settings
    assert found.uuid == UUID
    assert found.meta.name == "Wald"
    assert found.meta.description == ""
    assert found.environment["MAX"] == 20
    assert found.environment["EULA"] is True
    assert found.labels == {}
    assert found.build == Build(1024, -1, 500, 150, "0,2-3", 5120, True)
    assert found.container.image == "~java"
    assert found.allocations.default == Default("192.0.2.7", 25565)
    assert found.allocations.mappings == {"192.0.2.7": (25565, 25575)}
    assert found.mounts == (Mount("/srv/maps", "/maps", True),)


def test_empty_maps_and_nulls_as_php_sends_them() -> None:
    found = server(
        meta=[], environment=[], labels=None, build=[], container=None, mounts=None, suspended=None
    )
    assert found.environment == found.labels == {}
    assert found.build == Build()
    assert found.mounts == ()
    assert not found.suspended


def test_only_the_uuid_is_needed() -> None:
    assert configuration_from_panel({"settings": {"uuid": UUID}}).settings == Settings(UUID)


@pytest.mark.parametrize(
    ("build", "disabled"),
    [
        ({}, False),
        ({"oom_disabled": True}, True),
        ({"oom_disabled": None}, False),
        ({"oom_killer": True}, False),
        ({"oom_killer": False}, True),
        ({"oom_killer": False, "oom_disabled": False}, True),
    ],
)
def test_pelican_writes_the_opposite_of_oom(build: dict[str, object], disabled: bool) -> None:
    assert server(build=build).build.oom_kill_disabled is disabled


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({}, "settings: is missing and has no default"),
        ([], "settings: is missing and has no default"),
        ("<html>", "expected a map of keys and values, found a text"),
        ({"settings": []}, "settings.uuid: is missing and has no default"),
        (
            {"settings": {"uuid": UUID, "build": {"memory_limit": "512"}}},
            "settings.build.memory_limit: expected a whole number, found a text",
        ),
        (
            {"settings": {"uuid": UUID, "allocations": {"mappings": {"192.0.2.7": ["x"]}}}},
            "settings.allocations.mappings['192.0.2.7'][0]: expected a whole number, found a text",
        ),
        (
            {"settings": {"uuid": UUID, "mounts": [{"source": "/a"}]}},
            "settings.mounts[0].target: is missing and has no default",
        ),
    ],
)
def test_an_error_names_its_path(answer: object, fault: str) -> None:
    with pytest.raises(InvalidData) as caught:
        configuration_from_panel(answer)
    assert str(caught.value) == fault


def test_how_the_process_is_handled_is_read_too() -> None:
    replacement = {"match": "server-port", "replace_with": 25566, "if_value": None}
    process = process_configuration(
        startup={"done": ["Done", "regex:^up$"], "user_interaction": [], "strip_ansi": True},
        stop={"type": "command", "value": "end"},
        configs=[{"file": "a.txt", "parser": "properties", "replace": [replacement]}],
    )
    answer = {"settings": server_settings(UUID), "process_configuration": process}
    found = configuration_from_panel(answer)
    assert found.process == Process(
        Startup(("Done", "regex:^up$"), strip_ansi=True),
        Stop("command", "end"),
        (ConfigurationFile("a.txt", "properties", (Replacement("server-port", "", 25566),)),),
    )
    assert found.raw == answer["settings"]


@pytest.mark.parametrize(
    ("text", "uuid"),
    [
        (UUID, UUID),
        (UUID.upper(), UUID),
        (UUID.replace("-", ""), None),
        (f"{UUID}\n", None),
        (f"{{{UUID}}}", None),
        ("../../etc", None),
        ("", None),
    ],
)
def test_a_uuid_has_one_form(text: str, uuid: str | None) -> None:
    assert canonical_uuid(text) == uuid
