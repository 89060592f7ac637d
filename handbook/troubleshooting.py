"""The explanations of all errors, as the end of the page of troubleshooting."""

from __future__ import annotations

from wingsd.errors import explanations

__all__ = ["entries"]


def entries() -> str:
    """Return a chapter with an entry for each code, in Markdown."""
    parts = ["## By code"]
    for each in explanations().values():
        title, _, rest = each.text.partition("\n\n")
        status = f" The answer has the status {each.status}." if each.status else ""
        parts += [f"### `{each.code}`", f"**{' '.join(title.split())}**{status}", rest]
    return "\n\n".join(parts) + "\n"
