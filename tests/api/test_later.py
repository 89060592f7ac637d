"""Endpoints that are imported by the first request for them."""

from __future__ import annotations

import errno
import os

import pytest

from tests.api.node import UUID, ApiNode
from wingsd.api import resource

PATH = f"servers/{UUID}/files/delete"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many open files"),
        (ImportError("cannot import name 'moved'"), "restart wingsd"),
    ],
)
async def test_a_call_that_cannot_be_imported_fails_and_the_next_one_is_answered(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    def refuse(name: str) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(resource, "import_module", refuse)
        refused = await node.call("POST", PATH, {"root": "/", "files": ["a"]})
    assert (refused.status, refused.json["code"]) == (500, "internal-error")
    assert advice in refused.json["detail"]
    answered = await node.call("GET", PATH)
    assert (answered.status, answered.json["code"]) == (405, "method-not-allowed")
