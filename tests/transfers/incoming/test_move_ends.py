"""How moves to this node end, and what stays of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from zlib import crc32

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from tests.support.move_client import MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.nodes import LEVEL, MovingNode
from wingsd.archive import quota
from wingsd.errors import EnvironmentFailed, StorageError, WingsdError
from wingsd.filesystem.removal import remove_tree
from wingsd.moves.nodes import FileNode
from wingsd.transfers.incoming.moves import partial_copy
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep
from wingsd.transfers.incoming.moves.transfer import LONGER
from wingsd.transfers.steps import ReceiveStep
from wingsd.util.reactor import Timer


async def test_a_move_that_its_source_gives_up_is_kept_if_it_says_so(
    node: MovingNode, source: Path
) -> None:
    client = await node.half_sent(source)
    await client.give_up()
    status = await client.outcome()
    assert (status["outcome"], status["code"]) == ("failure", "move-given-up")
    assert (await client.ask("DELETE", "")).status == 204
    await node.rest()
    assert "failure" not in node.calls  # The source tells the Panel.
    assert node.copies() == [UUID]
    assert node.left() == [".kept"]


@pytest.mark.promise("arrived-data-is-kept")
async def test_the_next_transfer_goes_on_with_what_is_kept(node: MovingNode, source: Path) -> None:
    client = await node.half_sent(source)
    await client.give_up()
    await node.rest()
    later = node.client(source)
    assert (await later.move())["outcome"] == "success"
    assert later.bytes < 1000
    assert node.has_level()
    assert node.copies() == []


@pytest.mark.promise("other-versions-are-respected")
async def test_a_copy_with_attributes_goes_on_by_a_source_that_knows_none(
    node: MovingNode, source: Path
) -> None:
    os.setxattr(source / "empty", "user.note", b"1")
    first = node.client(source)
    await first.begin(version=2)
    await first.send()
    await first.give_up()
    await node.rest()

    client = await node.client(source).open(version=1)

    assert client.held["bytes"] > 0
    found = client.sent.find(b"empty")
    assert isinstance(found, FileNode)
    assert found.attributes == b""


@pytest.mark.promise("arrived-data-is-kept")
async def test_nothing_is_kept_of_a_move_that_a_person_cancels(
    node: MovingNode, source: Path
) -> None:
    client = await node.half_sent(source)
    node.receiver.cancel(UUID)
    status = await client.outcome()
    assert (status["outcome"], status["code"]) == ("failure", "transfer-cancelled")
    await node.rest()
    assert (node.calls[-1], node.left()) == ("failure", [])
    refused = await client.resume()
    assert (refused.status, refused.code) == (410, "move-over")


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_panel_that_deletes_after_each_failure_leaves_what_has_arrived(
    node: MovingNode, source: Path, keeps: bool
) -> None:
    await node.half_sent(source)
    await node.receiver.release(UUID, keeps=keeps)
    await node.receiver.release(UUID, keeps=keeps)
    assert node.copies() == [UUID] * keeps


async def test_the_oldest_copies_go_first(node: MovingNode) -> None:
    copies = node.partial_copies
    copies._most_bytes = 250
    for number in range(4):
        server = UUID.replace("8d2f", f"000{number}")
        copies.create(server).ledger.write_bytes(b"ledger")
        assert copies.keep(server, 100, float(number))
    # Two beside the newest.
    assert [copy.server[:4] for copy in copies.kept()] == ["0001", "0002", "0003"]


@pytest.mark.promise("arrived-data-is-kept")
async def test_a_failure_after_the_commit_keeps_what_is_whole(
    node: MovingNode, source: Path
) -> None:
    client = await node.half_sent(source)
    node.faults["create"] = EnvironmentFailed("no engine")
    await client.commit()
    status = await client.outcome()
    assert (status["outcome"], status["code"]) == ("failure", "environment-failed")
    await node.rest()
    assert (node.copies(), node.left()) == ([UUID], [".kept"])
    del node.faults["create"]
    later = node.client(source)
    assert (await later.move())["outcome"] == "success"
    assert later.bytes < 1000


@pytest.mark.promise("arrived-data-is-kept")
async def test_a_later_transfer_takes_the_place_of_an_open_move_and_its_files(
    node: MovingNode, source: Path
) -> None:
    client = await node.half_sent(source)
    later = node.client(source)
    assert (await later.move())["outcome"] == "success"
    assert later.bytes < 1000
    # Of the first the Panel hears nothing: it would end the second one.
    assert "failure" not in node.calls
    status = await client.status()
    assert (status.json["outcome"], status.json["code"]) == ("failure", "move-superseded")


@pytest.mark.promise("full-disk-during-a-move")
async def test_an_upload_removes_what_is_kept(node: MovingNode, source: Path) -> None:
    client = await node.half_sent(source)
    await client.give_up()
    await node.rest()
    await node.receive()
    assert (node.copies(), node.left()) == ([], [".kept", UUID])


@pytest.mark.promise("full-disk-during-a-move")
async def test_an_upload_that_needs_room_takes_that_of_what_is_kept(
    node: MovingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = node.partial_copies
    servers = [UUID.replace("8d2f", f"000{number}") for number in range(3)]
    for number, server in enumerate(servers):
        copies.create(server).ledger.write_bytes(b"ledger")
        assert copies.keep(server, 100, float(number))
    assert copies.kept_bytes() == 300

    def full(*_: object) -> None:
        if len(node.copies()) > 1:
            raise StorageError("the disk is full")

    monkeypatch.setattr(quota, "require_free_space", full)
    monkeypatch.setattr(quota, "STEP", 1)
    limits = attrs.evolve(node.receiver.parts.limits, reserve=1)
    node.receiver.parts = attrs.evolve(node.receiver.parts, limits=limits)
    await node.receive()
    # the oldest go first
    assert (node.copies(), copies.kept_bytes()) == (servers[2:], 100)


@pytest.fixture
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing flushed before that is asked for."""
    monkeypatch.setattr(partial_copy, "CHECKPOINT_EVERY", 3600)


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.usefixtures("no_checkpoints")
async def test_what_the_disk_has_changed_is_found_and_sent_again(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what was read before the disk has changed it is not read again
    monkeypatch.setattr(CopyUpkeep, "_go_on", lambda _: None)
    client = await node.half_sent(source)
    node.damage_level()
    await client.commit()
    await until_open(client)
    status = (await client.status()).json
    assert (status["code"], status["session"]) == ("move-root-mismatch", None)
    sent = client.bytes
    await client.send()
    assert 0 < client.bytes - sent < len(LEVEL) // 2
    await client.finish()
    assert node.has_level()


@pytest.mark.usefixtures("no_checkpoints")
async def test_what_is_read_back_meanwhile_and_has_changed_keeps_the_round_open(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    batches = client.round()
    await client.put_all(batches)
    node.damage_level()
    await deferToThread(node.inbox.copy.checkpoint)
    await client.put(batches[-1])
    await until(lambda: node.inbox.copy._wrong)
    refused = await client.close()
    assert (refused.status, refused.code) == (409, "move-root-mismatch")
    sent = client.bytes
    await client.send()
    assert 0 < client.bytes - sent < len(LEVEL) // 2
    await client.finish()
    assert node.has_level()


async def test_a_copy_that_somebody_has_removed_is_begun_anew(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    first, *others = client.round()
    await client.put(first)
    copy = node.inbox.copy

    def remove() -> None:
        with copy._lock:  # nothing opens it again before it is gone
            copy._close()  # as after an error of the disk
            remove_tree(str(copy._paths.tree))

    await deferToThread(remove)
    refused = await client.put(others[0])
    assert (refused.status, refused.code) == (409, "move-resume-needed")
    await client.send()
    await client.finish()
    assert node.has_level()


@pytest.mark.usefixtures("no_checkpoints")
@pytest.mark.parametrize(
    ("most", "bound", "reached"),
    [
        # Much was written since the last flush, or many files were.
        (2 * len(LEVEL), "MOST_UNFLUSHED", 1),
        (1 << 40, "LEAST_UNFLUSHED", 1 << 40),
    ],
)
async def test_a_batch_waits_for_a_flush_of_much_or_of_many_files(
    node: MovingNode,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    bound: str,
    reached: int,
) -> None:
    client = await node.client(source).open()
    first, *batches = client.round()
    await client.put(first)
    monkeypatch.setattr(partial_copy, "MOST_UNFLUSHED", most)
    await client.put(batches[0])
    status = (await client.status()).json
    assert status["received"] > status["durable"]
    monkeypatch.setattr(partial_copy, bound, reached)
    await client.put_all(batches[1:])
    status = (await client.status()).json
    assert status["received"] == status["durable"] == batches[-1].index.number


async def until_open(client: MoveClient) -> None:
    while (await client.status(wait=1)).json.get("code") != "move-root-mismatch":
        pass


@pytest.mark.promise("other-versions-are-respected")
async def test_a_copy_of_a_later_version_is_kept_as_it_is(node: MovingNode, source: Path) -> None:
    client = await node.half_sent(source)
    await client.give_up()
    await node.rest()
    (ledger,) = Path(node.staging.path).glob(".kept/*/ledger")
    written = bytearray(ledger.read_bytes())
    written[8] = 99
    written[28:32] = crc32(written[:28]).to_bytes(4, "little")
    ledger.write_bytes(written)
    later = node.client(source)
    assert (await later.move())["outcome"] == "success"
    assert later.bytes > len(LEVEL)
    (left,) = Path(node.staging.path).glob(".kept/*/ledger")
    assert left.read_bytes() == written


async def awaited(
    node: MovingNode, source: Path, patched: pytest.MonkeyPatch
) -> tuple[Any, Clock, list[WingsdError]]:
    """Return a move that waits for its source by a clock, and the errors that end it."""
    client = await node.half_sent(source)
    move = node.moves.find(UUID, client.id)
    assert move is not None
    clock, told = Clock(), list[WingsdError]()
    patched.setattr(move, "_reactor", clock)
    patched.setattr(move, "_silence_timer", Timer(clock))
    patched.setattr(move, "abort", told.append)
    move._await_source()
    return move, clock, told


async def test_silence_is_told_once_and_not_while_this_node_has_the_word(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        move, clock, told = await awaited(node, source, patched)
        limit = move._settings.patience + LONGER
        clock.advance(limit - 10)
        move.silence.progressed()
        clock.advance(limit - 10)
        patched.setattr(move._steps, "current", ReceiveStep.VERIFY)
        clock.pump([60] * 3)
        assert told == []
        patched.setattr(move._steps, "current", ReceiveStep.RECEIVE)
        clock.pump([60] * 3)
        assert [error.code for error in told] == ["move-abandoned"]
        assert clock.getDelayedCalls() == []


async def test_a_move_that_was_cancelled_while_it_was_begun_is_not_begun_again(
    node: MovingNode, source: Path
) -> None:
    node.waits["owns"] = asked = Deferred[None]()
    client = node.client(source)
    requests = [Deferred.fromCoroutine(client.begin()) for _ in range(2)]
    await until(lambda: node.receiver.servers != ())
    node.receiver.cancel(UUID)
    asked.callback(None)
    answers = [await request for request in requests]
    assert {answer.code for answer in answers} == {"transfer-cancelled", "token-used"}
    await node.rest()
    assert node.left() == []
