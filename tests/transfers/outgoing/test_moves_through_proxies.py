"""The source of a move behind proxies that cut bodies and answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.move_node import CUT, Fault, MoveNode, Mover, refused
from tests.support.sender import BACKUPS, running_sender
from wingsd.config import MovesConfig
from wingsd.transfers.outgoing import attached
from wingsd.transfers.outgoing.attached import TRIED_AFTER, BatchSize

KIB, MIB = 1 << 10, 1 << 20
#: Bytes of a body that gets through.
LIMIT = 300 * KIB


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mover]:
    monkeypatch.setattr(attached, "FIRST", 2 * MIB)
    moves = MovesConfig(patience=600)
    for made in running_sender(Mover, tmp_path, regions=0, moves=moves):
        made.there.limit = 4 * MIB
        (made.tree / "large").write_bytes(os.urandom(5 * MIB))
        yield made


def sizes(node: MoveNode, method: str) -> list[int]:
    """Return how long the bodies of some requests were, in order."""
    asked = [each for each in node.requests if each.method == method.encode()]
    return [int(each.getHeader("Content-Length")) for each in asked]


def through_proxy(node: MoveNode, fault: Fault) -> None:
    """Have larger bodies end in `fault`."""

    def limited(kind: str, count: int) -> Fault:
        length = int(node.requests[-1].getHeader("Content-Length") or 0)
        return fault if kind in ("batches", "attachments") and length > LIMIT else None

    node.fault = limited


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize("fault", [CUT, refused(413)], ids=str)
async def test_a_body_that_does_not_get_through_comes_again_as_smaller_ones(
    sender: Mover, node: MoveNode, fault: Fault
) -> None:
    through_proxy(node, fault)
    await sender.succeeds()
    asked = sizes(node, "PUT")
    assert max(asked) > 4 * LIMIT
    # Of each size, each stream tries at most twice: it is not forgotten what got through.
    assert sum(size > LIMIT for size in asked) <= 4 * MovesConfig().streams * 2
    assert max(asked[-10:]) <= LIMIT


async def test_a_node_that_has_no_room_gets_the_same_body_again(
    sender: Mover, node: MoveNode
) -> None:
    node.fault = lambda kind, count: (
        refused(507, "no-space") if kind == "batches" and count in range(3, 9) else None
    )
    await sender.succeeds()
    assert node.sessions == 1


async def test_pieces_of_backups_become_smaller_as_well(sender: Mover, node: MoveNode) -> None:
    backup = os.urandom(3 * MIB)
    sender.keep(f"{BACKUPS[0]}.tar.gz", backup)
    through_proxy(node, CUT)
    await sender.succeeds(backups=(BACKUPS[0],), archive_format="tar_gz")
    assert node.attachments[BACKUPS[0]] == backup
    assert max(sizes(node, "PATCH")) > LIMIT >= sizes(node, "PATCH")[-1]


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize("fault", [refused(504)], ids=str)
async def test_questions_wait_no_longer_than_a_proxy_does(
    sender: Mover, node: MoveNode, fault: Fault
) -> None:
    waits: list[int] = []

    def limited(kind: str, count: int) -> Fault:
        wait = int(node.requests[-1].args.get(b"wait", [b"0"])[0])
        if kind == "state" and wait:
            waits.append(wait)
            if len(waits) == 6:
                node.of.finish()
                node.phase, node.outcome = "over", "success"
        return fault if wait > 5 else None

    node.fault, node.commits = limited, False
    await sender.succeeds()
    assert waits == [25, 12, 6, 3, 3, 3]
    # It was there all the time: nobody else was asked whether it has the server.
    assert "owns" not in sender.panel.calls


def test_the_size_of_bodies_that_were_cut_is_tried_again_later() -> None:
    size = BatchSize(8 * MIB, first=8 * MIB)
    assert not size.cut(8 * MIB, 1)
    assert size.value == 4 * MIB
    size.taken(size.value, 0.1)
    assert size.value == 8 * MIB
    assert size.cut(8 * MIB, 2)
    for bodies in (TRIED_AFTER, 2 * TRIED_AFTER, 4 * TRIED_AFTER):
        for _ in range(bodies - 1):
            size.taken(size.value, 0.1)
            assert size.value == 4 * MIB
        size.taken(size.value, 0.1)
        assert size.value == 8 * MIB
        assert size.cut(8 * MIB, 2)
        assert size.cut(8 * MIB, 2)  # of another stream
