"""What one node tells another of a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.node_in_process import description
from tests.support.sample_server import UUID
from wingsd.direct_transfers.initiator import (
    describe,
    mounts_in,
    read,
    read_text,
    with_addresses,
)
from wingsd.errors import BadRequest
from wingsd.panel.schemas import (
    configuration_from_panel,
)


def test_a_panels_description_is_unchanged_by_a_round_trip() -> None:
    told = configuration_from_panel(description(name="Lobby"))
    text = json.dumps(describe(told))
    again = read_text(text, UUID)
    assert again == told
    # Of the settings also what this node has no use for.
    assert again.raw["egg"]["id"]


def test_mounts_are_left_out_of_descriptions() -> None:
    told = description(mounts=[{"source": "/srv/maps", "target": "/maps", "read_only": True}])
    found = read(told, UUID)
    assert found.settings.mounts == ()
    assert "mounts" not in describe(found)["settings"]
    assert mounts_in(told) == 1
    assert read_text(json.dumps(told), UUID).settings.mounts == ()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "settings: is missing"),
        (
            {"settings": {"uuid": UUID, "build": {"disk_space": "much"}}},
            "settings.build.disk_spac",
        ),
        ({"settings": {"uuid": "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"}}, "settings.uuid is 111"),
        ("text", "expected a map"),
    ],
)
def test_an_invalid_description_is_refused_by_its_key(wrong: Any, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(wrong, UUID)
    assert says in caught.value.detail


def test_addresses_replace_those_of_the_source() -> None:
    changed = with_addresses(description(), ["203.0.113.5:1", "203.0.113.6:2", "203.0.113.5:3"])
    found = read(changed, UUID).settings.allocations
    assert (found.default.ip, found.default.port) == ("203.0.113.5", 1)
    assert found.mappings == {"203.0.113.5": (1, 3), "203.0.113.6": (2,)}
    assert changed["settings"]["allocations"]["force_outgoing_ip"] is False


@pytest.mark.parametrize(
    "address",
    ["", "203.0.113.5", "203.0.113.5:", "203.0.113.5:0", "203.0.113.5:65536", "x:1", ":1"],
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(BadRequest):
        with_addresses(description(), [address])
