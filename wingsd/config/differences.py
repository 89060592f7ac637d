"""What is not the same in two configurations."""

from __future__ import annotations

from typing import Any

import attrs

__all__ = ["differences"]


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths of the keys whose values differ in two configurations, in order.

    Never the values, which may be secrets. A map or a list differs as a whole.
    """
    if one == other:
        return []
    if not attrs.has(type(one)):
        return [path]
    found = []
    for field in attrs.fields(type(one)):
        here = f"{path}.{field.name}" if path else field.name
        found += differences(getattr(one, field.name), getattr(other, field.name), here)
    return found
