"""An entry of the system's journal in its native form, as systemd's documents describe it. Pure.

Fields are lines `NAME=value`; a value with a line break is written by its length instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["entry", "own_field"]

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
#: The most bytes that the journal takes for a name.
_LONGEST = 64


def own_field(key: str) -> str | None:
    """Return the name of wingsd's own field for `key`, such as WINGSD_SERVER for `server`.

    None for what no field can be called.
    """
    name = f"WINGSD_{key.upper()}"
    return name if _NAME.fullmatch(name) and len(name) <= _LONGEST else None


def entry(fields: Mapping[str, str]) -> bytes:
    """Return the entry that has these fields."""
    return b"".join(_field(name.encode(), _text(value)) for name, value in fields.items())


def _text(value: str) -> bytes:
    # A name of a file may hold bytes that are no text; a journal shows no such entry to people.
    return value.encode("utf-8", "backslashreplace")


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name, value)
    return b"%s\n%s%s\n" % (name, len(value).to_bytes(8, "little"), value)
