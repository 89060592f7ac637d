"""The reference of the configuration as Markdown, for `docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator

from handbook.keys import Key, Section
from handbook.wording import facts

__all__ = ["markdown"]


def markdown(sections: tuple[Section, ...]) -> str:
    """Return a heading for each section that has keys, and one for each key."""
    parts = [part for section in sections if section.keys for part in _section(section)]
    return "\n\n".join(parts)


def _section(section: Section) -> Iterator[str]:
    yield f"## `{section.path}`" if section.path else "## At the top"
    yield section.words
    for key in section.keys:
        yield f"### `{key.path}`"
        yield f"{_facts(key)}."
        yield key.words


def _facts(key: Key) -> str:
    text = facts(key, "`{}`".format)
    own = "; **wingsd**" if key.is_own else ""
    return f"{text[:1].upper()}{text[1:]}{own}"
