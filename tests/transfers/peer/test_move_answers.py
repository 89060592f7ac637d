"""Answers to moves, as they are told to people."""

from __future__ import annotations

import json

from wingsd.http_client.exchange import Answer
from wingsd.transfers.peer.moves import failure_of, progress_of


def test_the_texts_of_a_destination_are_lines_and_bounded() -> None:
    text = "one\ntwo \x1b[31m" + "x" * 10_000
    tried = {"state": "failed", "error": text, "detail": text, "code": ""}
    said = {"phase": "over", "outcome": "failure", "error": text, "detail": text}
    body = json.dumps(said | {"preparation": tried}).encode()
    found = progress_of(Answer(200, "OK", [], body, early=False))
    assert found.preparation is not None
    for each in (found.error, found.detail, found.preparation.error, found.preparation.detail):
        assert each.startswith("one two [31mx")
        assert len(each) < 600
    assert "\x1b" not in str(failure_of(found))
