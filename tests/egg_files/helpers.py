"""A file of text through one form, as the whole room would take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wingsd.egg_files.changes import Change
from wingsd.egg_files.child import Rewritten, format_of
from wingsd.panel.schemas import Replacement

NODE: dict[str, Any] = {
    "token": "never told",
    "api": {"host": "10.0.0.1", "port": 8080},
    "docker": {
        "network": {"interface": "172.18.0.1", "enable_icc": True, "network_mtu": 1500},
        "registries": {"example": {"password": "never told"}},
    },
    "system": {"timezone": "UTC"},
}


#: 21 KB of TOML for which tomlkit takes minutes: it goes by the square and more.
DOTTED_KEYS = "".join(f"{'a.' * 24}k{number} = 1\n" for number in range(380)).encode()


def sample(name: str) -> str:
    return (Path(__file__).parent / "samples" / name).read_text()


def in_process(parser: str, data: bytes, changes: Sequence[Change]) -> Rewritten:
    """Make the changes here, and not in a process of their own."""
    return format_of(parser).rewrite(data, changes)


def put(match: str, value: Any, if_value: str = "") -> Replacement:
    return Replacement(match=match, if_value=if_value, replace_with=value)


def changed(parser: str, text: str, *replacements: Replacement) -> str:
    """Return the new text; every replacement must have been possible."""
    new, failures = tried(parser, text, *replacements)
    assert failures == []
    return new


def tried(parser: str, text: str, *replacements: Replacement) -> tuple[str, list[str]]:
    """Return the new text and the lines about what could not be done."""
    changes = [Change.from_replacement(replacement, NODE) for replacement in replacements]
    rewritten = format_of(parser).rewrite(text.encode(), changes)
    return rewritten.data.decode(), rewritten.failures
