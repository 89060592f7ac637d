"""What is said of a key beside its own words, alike on the page and in the man page."""

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
    """Return what stands for a key that is left out: in words, and the value behind them."""
    if key.is_required:
        return "no default, it must be there", ""
    if key.default in ("", [], {}):
        return "empty by default", ""
    return "default", plain(key.default)
