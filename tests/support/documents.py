"""Reads the documents: their links, code blocks and headings."""

from __future__ import annotations

import re
import textwrap
from functools import cached_property
from pathlib import Path

import attrs

HOME = Path(__file__).parent.parent.parent
#: Fences may be indented, in a list; what follows the language says more of the block.
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@attrs.frozen
class Block:
    """A block of code: `page:line`, its language, what else is said of it, and the code."""

    place: str
    language: str
    about: str
    code: str


class Page:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(HOME))
        self.text = path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        found = []
        for match in _FENCE.finditer(self.text):
            line = self.text.count("\n", 0, match.start()) + 1
            language, _, about = match[2].strip().partition(" ")
            code = textwrap.dedent(match[3])
            found.append(Block(f"{self.name}:{line}", language, about, code))
        return found

    @cached_property
    def prose(self) -> str:
        """All but the blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("`", self.prose))

    @cached_property
    def code(self) -> list[str]:
        """What is shown as code in the prose, on one line each."""
        return [" ".join(text.split()) for _, text in _CODE.findall(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """The names of the headings in links, as forges and Sphinx make them."""
        found: set[str] = set()
        for heading in _HEADING.findall(self.prose):
            slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            taken = (f"{slug}-{number}" if number else slug for number in range(len(found) + 1))
            found.add(next(each for each in taken if each not in found))
        return found


def page(name: str) -> Page:
    return Page(HOME / name)


#: All documents for people, by their paths.
PAGES = {
    found.name: found
    for found in map(Page, [*sorted(HOME.glob("*.md")), *sorted(HOME.glob("docs/**/*.md"))])
}
