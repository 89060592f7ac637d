"""Why a replacement, or a whole file, could not be done."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(Exception):
    """A replacement or a file that is left as it was; the text tells a person why."""
