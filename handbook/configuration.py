"""The reference of the configuration as Markdown, for `docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator

from handbook.keys import Key, Section
from handbook.wording import default_of

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
    words, value = default_of(key)
    facts = [
        key.kind,
        f"{words} `{value}`" if value else words,
        key.bounds and f"must be {key.bounds}",
        "never shown" if key.is_secret else "",
        "**wingsd's own**" if key.is_own else "",
    ]
    text = "; ".join(filter(None, facts))
    return text[:1].upper() + text[1:]
