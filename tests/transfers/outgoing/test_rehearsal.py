"""A running server is stopped when both Panels answer and its destination is ready for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.move_node import CUT, MoveNode, Mover, refused
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.errors import PanelUnreachable
from wingsd.transfers.outgoing import move

NO_IMAGE = {"state": "failed", "error": "no image", "detail": "load it", "code": "x"}
READY = {"state": "ready"}


@pytest.fixture(autouse=True)
def quick_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(move, "REHEARSE_EVERY", 0.01)
    monkeypatch.setattr(move, "PREPARE_PAUSE", 0.01)
    monkeypatch.setattr(move, "PREPARED_WITHIN", 0.1)


@pytest.mark.parametrize("sender", [{"patience": 0.3}], indirect=True)
async def test_a_preparation_without_an_end_fails_the_move_and_the_server_runs_on(
    sender: Mover, node: MoveNode
) -> None:
    node.prepared = {"state": "under way"}
    await sender.start()
    sender.check_runs_on()
    assert sender.said("it prepares without an end")


async def test_it_is_prepared_before_it_is_stopped(sender: Mover, node: MoveNode) -> None:
    asked: list[str] = []
    sender._recorder.before["stop"] = lambda: asked.extend(node.asked)
    await sender.succeeds()
    assert asked == ["begin", "prepare", "state"]
    assert node.order["running"] is True


@pytest.mark.promise("rehearsal-before-the-stop")
@pytest.mark.parametrize("sender", [{"patience": 0.3}], indirect=True)
async def test_it_runs_on_where_the_destination_is_never_ready(
    sender: Mover, node: MoveNode
) -> None:
    node.prepared = NO_IMAGE
    await sender.start()
    sender.check_runs_on()
    assert node.count("prepare") > 1
    assert sender.said("the server is not stopped yet, and runs on: the destination node is not")
    assert sender.said("no image")
    assert sum("not stopped yet" in line for line in sender.lines) == 1
    await until(lambda: node.deleted == ["keep"])


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_it_is_tried_thrice_what_fails_until_a_person_changes_something(
    sender: Mover, node: MoveNode
) -> None:
    node.prepared = NO_IMAGE | {"final": True}
    over = sender.start()
    await until(lambda: over.called or node.count("prepare") > 10)
    assert node.count("prepare") == 3
    await over
    sender.check_runs_on()
    assert sender.said("transfer failed")
    assert sender.said("no image")


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_tries_that_fail_for_good_count_only_in_a_row(sender: Mover, node: MoveNode) -> None:
    def prepared(kind: str, count: int) -> None:
        if kind == "prepare":
            node.prepared = NO_IMAGE | {"final": count % 3 != 0} if count < 8 else READY

    node.fault = prepared
    await sender.succeeds()
    assert node.count("prepare") == 8


async def test_a_long_preparation_is_waited_for(sender: Mover, node: MoveNode) -> None:
    node.prepared = {"state": "under way"}
    over = sender.start()
    await until(lambda: node.count("state") > 2)
    assert sender.calls == []
    node._preparation = READY
    await over
    sender.check_moved()
    assert node.count("prepare") == 1


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_it_runs_on_while_its_panel_is_away(
    sender: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def away(uuid: str) -> Any:
        asked.append(uuid)
        raise PanelUnreachable("the Panel is away", "it is a test")

    with monkeypatch.context() as patched:
        patched.setattr(sender.panel, "describe", away)
        over = sender.start()
        await until(lambda: len(asked) > 1)
        assert sender.calls == []
    await over
    sender.check_moved()


@pytest.mark.promise("rehearsal-before-the-stop")
async def test_it_runs_on_while_the_destination_is_away(sender: Mover, node: MoveNode) -> None:
    node.fault = lambda kind, count: CUT if kind == "prepare" and count < 20 else None
    await sender.succeeds()
    assert node.count("prepare") == 20


@pytest.mark.parametrize("kind", ["prepare", "state"])
async def test_a_destination_that_has_ended_the_move_ends_it(
    sender: Mover, node: MoveNode, kind: str
) -> None:
    ended: dict[str, Any] = {
        "prepare": refused(410, "move-over"),
        "state": (200, {"phase": "over", "outcome": "failure", "error": "cancelled"}),
    }
    node.fault = lambda asked, count: ended[kind] if asked == kind else None
    await sender.start()
    sender.check_runs_on()
    assert node.count("prepare") == 1


async def test_a_cancel_ends_the_wait(sender: Mover, node: MoveNode) -> None:
    node.prepared = {"state": "under way"}
    over = sender.start()
    await until(lambda: node.count("state") > 1)
    sender.transfers.cancel(UUID)
    await over
    sender.check_runs_on()
    await until(lambda: node.deleted == ["all"])
