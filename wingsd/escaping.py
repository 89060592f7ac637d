"""Text from outside, made fit for a log or a terminal: one printable line of bounded length."""

from __future__ import annotations

__all__ = ["LONGEST", "escaped"]

#: Characters of a text that are kept; a `…` stands for the others.
LONGEST = 2048


def escaped(text: str) -> str:
    r"""Return a text cut off after `LONGEST` characters, with escapes (`\x1b`) for some of them.

    Escaped is what is not printable (`str.isprintable`): control characters of C0 and C1, line
    breaks of every kind, what changes the direction of the text behind it (such as U+202E), and
    lone surrogates.
    """
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    if cut.isprintable():
        return cut
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
