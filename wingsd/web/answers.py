"""The form of every error this node answers with."""

from __future__ import annotations

import json

__all__ = ["error_json"]


def error_json(message: str, detail: str = "") -> bytes:
    """Return the body `{"error": message}`, with a `detail` where there is one."""
    answer = {"error": message} | ({"detail": detail} if detail else {})
    return json.dumps(answer).encode()
