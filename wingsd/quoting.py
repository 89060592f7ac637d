"""Names from outside in quotes, safe to show to people."""

from __future__ import annotations

__all__ = ["display"]

#: Characters.
_MAX_DISPLAY = 200


def display(name: bytes) -> str:
    """Return `name` in quotes, safe to show: printable, on one line, not endlessly long.

    What is not UTF-8 or not printable is shown as an escape sequence.
    """
    shown = name[: _MAX_DISPLAY + 1].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return f'"{text[:_MAX_DISPLAY]}..."' if len(text) > _MAX_DISPLAY else f'"{text}"'
