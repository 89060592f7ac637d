"""What every form of file is to the others: a document that takes changes and gives text back."""

from __future__ import annotations

from typing import Protocol

from wingsd.eggfiles.changes import Change

__all__ = ["Document"]


class Document(Protocol):
    """A file's text, opened. What opens it raises Refused for text that is not of its form."""

    def apply(self, change: Change) -> None:
        """Make one change. Raises Refused where it cannot be made; others can be all the same."""

    def text(self) -> str:
        """Return the text as it is now: the very same where nothing was changed."""
