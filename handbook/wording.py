"""Texts about a key that the page and the man page share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from handbook.keys import Key
from wingsd.util.serialization import Span

__all__ = ["facts", "plain"]

#: Bounds that the page's beginning states for all keys.
_USUAL = ("0 or more", "at least 1", "an absolute path")


def plain(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, Span):
        return str(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("...\n").strip()


def facts(key: Key, code: Callable[[str], str]) -> str:
    """Return the default, the unit and the bounds of a key; `code` formats a value.

    The kind is left out where the default shows it.
    """
    if key.is_required:
        value = "required"
    elif key.default == "":
        value = "default empty"
    elif isinstance(key.default, list | dict):
        value = f"{key.kind}; default {code(plain(key.default)) if key.default else 'empty'}"
    else:
        value = f"default {code(plain(key.default))} {key.unit}".rstrip()
    others = [f"with {family} {code(plain(other))}" for family, other in key.others.items()]
    value = ", ".join([value, *others])
    bounds = "" if key.bounds in _USUAL else key.bounds
    return "; ".join(filter(None, [value, bounds, "never shown" if key.is_secret else ""]))
