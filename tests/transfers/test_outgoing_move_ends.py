"""Moves that resume, at their source: the first request, and the commit, get lost or refused."""

from __future__ import annotations

import time

import jwt
import pytest

from tests.support.move_node import CUT, CUT_AFTER, SILENT, Fault, MoveNode, refused
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender
from tests.transfers.test_outgoing_moves import (
    _quick,
    check_moved,
    is_after_commit,
    node,
    sender,
)
from wingsd import callbacks
from wingsd.transfers.outgoing import move
from wingsd.util.retry import Backoff

__all__ = ["_quick", "node", "sender"]


@pytest.mark.promise("move-begins-once")
async def test_a_beginning_that_was_not_answered_is_withdrawn_by_a_cancel(
    sender: Sender, node: MoveNode
) -> None:
    node.fault = lambda kind, count: SILENT if (kind, count) == ("begin", 1) else None
    over = sender.start()
    await until(lambda: node.count("begin") == 1)
    sender.transfers.cancel(UUID)
    await over
    await until(lambda: node.deleted == ["all"])
    assert sender.calls == []


@pytest.mark.promise("move-begins-once")
@pytest.mark.parametrize("code", ["daemon-stopping", "servers-not-loaded"])
async def test_a_node_that_is_started_anew_is_asked_again_to_begin(
    sender: Sender, node: MoveNode, code: str
) -> None:
    node.fault = lambda kind, count: refused(503, code) if kind == "begin" and count < 4 else None
    await sender.start()
    check_moved(sender, node)


@pytest.mark.promise("move-begins-once")
@pytest.mark.parametrize("exp", [None, "?", 5, 9_000])
async def test_the_beginning_is_tried_as_long_as_its_token_is_good(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch, exp: float | str | None
) -> None:
    monkeypatch.setattr(move, "BEGIN_WITHIN", 0.05)
    node.fault = lambda kind, count: CUT if kind == "begin" and count < 10 else None
    claims = {} if exp is None else {"exp": exp if isinstance(exp, str) else time.time() + exp}
    node.token = jwt.encode(claims, "a key of the other node, unknown here", "HS256")
    await sender.start(authorization=f"Bearer {node.token}")
    assert ("completed" in sender.states) is isinstance(exp, int)


async def test_a_failure_at_the_destination_has_the_panel_decide(
    sender: Sender, node: MoveNode
) -> None:
    failed = {"phase": "over", "outcome": "failure", "error": "no space", "detail": "free some"}
    node.fault = lambda kind, count: (200, dict(failed)) if is_after_commit(node, kind) else None
    await sender.start()
    assert sender.panel.calls == ["owns", "failure"]
    assert sender.said("the destination node says: no space")
    assert sender.states[-1] == "failure"


@pytest.mark.promise("commit-outcome-is-asked-for")
@pytest.mark.parametrize("fault", [CUT, refused(502)])
async def test_a_silent_destination_is_waited_for_until_the_panel_has_moved_the_server(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(move, "LOST", 0.01)
    node.fault = lambda kind, count: fault if is_after_commit(node, kind) else None
    over = sender.start()
    await until(lambda: sender.panel.calls.count("owns") > 2)
    assert not over.called
    sender.panel.owned = False
    await over
    check_moved(sender, node)
    assert node.count("commit") == 1
    assert sender.said("moved: only the destination's answer was lost")


@pytest.mark.parametrize("code", ["", "move-over"])
async def test_while_the_panel_denies_its_transfer_only_the_destinations_own_refusal_counts(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    sender.panel.denials = 1_000_000 if not code else 1
    fault = refused(403, code)
    node.fault = lambda kind, count: fault if is_after_commit(node, kind) else None
    over = sender.start()
    if not code:
        await until(lambda: sender.panel.calls.count("failure") > 2)
        assert not over.called
        sender.panel.owned = False
    await over
    assert sender.states[-1] == ("failure" if code else "completed")


async def test_a_commit_that_is_under_way_is_waited_for(sender: Sender, node: MoveNode) -> None:
    answers: dict[tuple[str, int], Fault] = {
        ("commit", 1): CUT_AFTER,
        ("commit", 2): refused(409, "move-committed"),
    }
    node.fault = lambda kind, count: answers.get((kind, count))
    await sender.start()
    check_moved(sender, node)
