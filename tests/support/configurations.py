"""Configurations as Panels and other node daemons write them, and a minimal one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from wingsd.config import Config, parse
from wingsd.errors import ConfigError

SECRET = "s3cr3t-t0k3n-of-this-n0d3"
LEAST: dict[str, Any] = {"token_id": "id", "token": SECRET, "remote": "https://panel.example.com"}

# What a Panel prints, and what the families' node daemons make of it.
_FILES = Path(__file__).parent / "configuration_files"
PRINTED = (_FILES / "panel.yml").read_text()
WRITTEN_BY_WINGS = (_FILES / "wings.yml").read_text()
WRITTEN_BY_PELICAN = yaml.safe_load((_FILES / "pelican.yml").read_text())
WRITTEN_BY_CALAGOPUS = yaml.safe_load((_FILES / "calagopus.yml").read_text())


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return `one` with the keys of `other`, map by map."""
    both = {key: merged(one[key], other[key]) for key in one if isinstance(other.get(key), dict)}
    return one | other | both


def config(**keys: Any) -> Config:
    return parse(yaml.safe_dump(LEAST | keys), "here")[0]


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "here")
    assert SECRET not in str(caught.value)
    return str(caught.value)


def faults(**keys: Any) -> list[str]:
    first, *rest = fault(yaml.safe_dump(LEAST | keys)).splitlines()
    assert first == "here cannot be used:"
    return rest
