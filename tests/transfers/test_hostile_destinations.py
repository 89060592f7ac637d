"""Destinations of moves that have their source ask them again and again."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import pytest

from tests.support.move_node import Fault, MoveNode, refused
from tests.support.sender import BACKUPS, Sender
from tests.transfers.test_outgoing_moves import _quick, node, sender
from wingsd.errors import DestinationRefused
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing import move
from wingsd.transfers.peer.moves import MOST, Cause, ProgressAnswer

__all__ = ["_quick", "node", "sender"]


def check_stays(sender: Sender, text: str) -> None:
    assert sender.states[-1] == "failure"
    assert sender.said(text)
    assert sender.server.operations.hold is None


async def test_a_round_that_is_never_closed_has_an_end_though_batches_are_taken(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, Cause.NO_ROUND_CLOSED, 20)
    sender.server.state = PowerState.OFFLINE

    def begins_again(kind: str, number: int) -> Fault:
        if kind != "rounds":
            return None
        (sender.tree / "region0").write_bytes(os.urandom(5_000))
        return refused(409, "move-resume-needed")

    node.fault = begins_again
    await sender.start()
    check_stays(sender, "had the move resumed too often")
    assert node.sessions == 21


async def test_pieces_that_are_taken_byte_by_byte_have_an_end(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, Cause.PIECE_IN_PART, 20)
    sender.keep(f"{BACKUPS[0]}.tar.gz", os.urandom(100_000))
    node.fault = lambda kind, number: (
        (200, {"offset": number - 1}) if kind == "attachments" else None
    )
    await sender.start(backups=(BACKUPS[0],), archive_format="tar_gz")
    check_stays(sender, "takes backups or the log only in small pieces")
    assert node.count("attachments") == 22


@pytest.mark.parametrize("offset", [-1, -2])
async def test_a_negative_offset_is_refused_before_anything_is_read(
    sender: Sender, node: MoveNode, offset: int
) -> None:
    sender.keep(f"{BACKUPS[0]}.tar.gz", os.urandom(100_000))
    node.fault = lambda kind, _: (200, {"offset": offset}) if kind == "attachments" else None
    await sender.start(backups=(BACKUPS[0],), archive_format="tar_gz")
    assert sender.states[-1] == "failure"
    assert not sender.said("internal error")
    assert node.count("attachments") == 1


async def test_a_commit_that_always_needs_something_else_has_an_end(
    sender: Sender, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, Cause.SENT_AFTER_COMMIT, 12)
    sender.server.state = PowerState.OFFLINE

    def needs_more(kind: str, number: int) -> Fault:
        if kind != "commit" or number > 100:
            return None
        (sender.tree / "region0").write_bytes(os.urandom(5_000))
        return refused(409, "move-resume-needed")

    node.fault = needs_more
    await sender.start()
    assert node.count("commit") == 13
    assert sender.said("the destination node does not commit the move")


class Talker:
    """Tells something new whenever it is asked, and never an outcome."""

    def __init__(self) -> None:
        self._tags = count()

    async def progress(self, tag: str, patience: float) -> ProgressAnswer:
        number = next(self._tags)
        assert number < 1000
        return ProgressAnswer("over", tag=f"t{number}")


async def test_a_destination_that_never_tells_why_it_has_ended_a_move_is_not_asked_for_ever() -> (
    None
):
    talker: Any = Talker()
    error = DestinationRefused("it is over", "it is a test", 410)
    assert await move._explained(error, talker) is error
