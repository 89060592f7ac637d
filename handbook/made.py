"""The generated parts of the documents.

A page is written by people except between the comments `<!-- made: NAME -->` and `<!-- made -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from handbook.compatibility import calls, details, overview
from handbook.configuration import markdown
from handbook.exclusions import exclusions
from handbook.keys import sections
from handbook.layers import folders, layers
from handbook.manpage import manpage

__all__ = ["HOME", "filled", "made"]

HOME = Path(__file__).parent.parent
_PART = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- made -->)", re.DOTALL)


def made() -> dict[Path, str]:
    """Return the up-to-date text of each document with such parts, by its path.

    Raises `LookupError` for an unknown name.
    """
    keys = sections()
    parts = {
        "families": overview(),
        "families_in_full": details(),
        "calls": calls(),
        "keys": markdown(keys),
        "folders": folders(),
        "layers": layers(),
        "exclusions": exclusions(),
    }
    pages = {
        page: filled(page.read_text(), parts) for page in sorted((HOME / "docs").glob("*.md"))
    }
    return {**pages, HOME / "man" / "wingsd.yml.5": manpage(keys)}


def filled(page: str, parts: dict[str, str]) -> str:
    """Return a page with its generated parts. Raises `LookupError` for an unknown name."""
    return _PART.sub(lambda found: f"{found[1]}\n{parts[found[2]]}\n\n{found[3]}", page)
