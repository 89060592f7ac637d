"""The demo's output: one aligned line for each fact, with a mark for checks."""

from __future__ import annotations

__all__ = ["Failed", "check", "heading", "line", "mib"]

_WIDTH = 13
_MIB = 1024 * 1024


class Failed(Exception):
    """An unexpected result; the text names it."""


def heading(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}\n", flush=True)


def line(name: str, text: str, mark: str = " ") -> None:
    """Print one line; further lines of `text` are put below its first."""
    first, *rest = text.splitlines() or [""]
    print(f"  {mark} {name:{_WIDTH}}{first}", flush=True)
    for more in rest:
        print(f"    {'':{_WIDTH}}{more}", flush=True)


def check(name: str, holds: object, text: str) -> None:
    """Print the result of a check. Raises `Failed` if it is negative."""
    line(name, text, "+" if holds else "!")
    if not holds:
        raise Failed(f"{name}: {text}")


def mib(size: int) -> str:
    """Return a number of bytes in MiB, as text."""
    return f"{size / _MIB:.1f} MiB"
