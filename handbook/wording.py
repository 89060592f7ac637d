"""Texts about a key that the page and the man page share."""

from __future__ import annotations

from typing import Any

import yaml

from handbook.keys import Key

__all__ = ["default_of", "plain"]


def plain(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("...\n").strip()


def default_of(key: Key) -> tuple[str, str]:
    """Return how to describe the default of a key, and the default itself."""
    if key.is_required:
        return "required", ""
    if key.default in ("", [], {}):
        return "empty by default", ""
    return "default", plain(key.default)
