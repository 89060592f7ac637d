"""What this node answers with: JSON or nothing, and the form of every error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.structure import unstructure

__all__ = ["Answer", "error_json"]


@attrs.frozen
class Answer:
    """An answer to one request; `content` is what its JSON says, None for no body."""

    status: HTTPStatus
    content: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def body(self) -> bytes:
        """The body's bytes."""
        return b"" if self.content is None else json.dumps(unstructure(self.content)).encode()


def error_json(message: str, detail: str = "") -> bytes:
    """Return the body `{"error": message}`, with a `detail` where there is one."""
    answer = {"error": message} | ({"detail": detail} if detail else {})
    return json.dumps(answer).encode()
