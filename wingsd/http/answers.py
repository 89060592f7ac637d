"""What this node answers with: JSON, and the form of every error. Pure."""

from __future__ import annotations

import json
from typing import Annotated

import attrs

from wingsd.util.serialization import Keywords, unstructure

__all__ = ["EncodedObject", "Error", "error_json", "to_json"]


class EncodedObject(bytes):
    """A JSON object that was encoded before, since it is the same in every answer."""


@attrs.frozen
class Error:
    """What is said of whatever is refused, or fails."""

    error: Annotated[str, "What went wrong.", Keywords(minLength=1)]
    detail: Annotated[str, "What to do, where that is not plain.", Keywords(minLength=1)] = ""


def to_json(content: object) -> bytes:
    """Return a body that says `content`, which is plain or holds values of attrs classes."""
    if isinstance(content, EncodedObject):
        return content
    return json.dumps(unstructure(content)).encode()


def error_json(message: str, detail: str = "") -> bytes:
    """Return the body `{"error": message}`, with a `detail` where there is one."""
    return to_json(Error(message, detail))
