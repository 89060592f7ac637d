"""Moves that resume, at their source: batches, sessions and rounds, whatever gets lost."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

import jwt
import pytest
from twisted.internet.defer import Deferred

from tests.support.archives import seen
from tests.support.attributes import ACCESS, acl
from tests.support.full_trees import limit_trees
from tests.support.move_node import (
    CUT,
    CUT_AFTER,
    CUT_WITHIN,
    SILENT,
    Fault,
    MoveNode,
    Mover,
    refused,
    tree_of,
)
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS
from tests.transfers.outgoing.moving import BATCH
from wingsd import callbacks
from wingsd.config import LiveMovesConfig
from wingsd.errors import DestinationRefused
from wingsd.events import TRANSFER_REPORTED
from wingsd.servers.power_states import PowerState
from wingsd.transfers.outgoing import move
from wingsd.transfers.peer import moves
from wingsd.transfers.peer.moves import MOST, Cause, ProgressAnswer
from wingsd.util.retry import Backoff


def is_after_commit(node: MoveNode, kind: str) -> bool:
    return kind == "state" and node.count("commit") > 0


async def test_a_server_moves_in_batches(sender: Mover, node: MoveNode) -> None:
    await sender.succeeds()
    assert sender.calls == ["stop", "remove"]
    assert node.archives == []
    assert node.running
    assert max(size for _, size in node.batches) <= node.limit
    assert sender.said("sending the archive")
    assert not sender.said("resumed")


@pytest.mark.promise("activity-precedes-the-move")
async def test_the_panel_gets_what_users_did_before_the_commit(
    sender: Mover, node: MoveNode
) -> None:
    had: list[list[str]] = []

    def note(kind: str, count: int) -> None:
        if kind == "commit":
            had.append([*sender.panel.activity])

    node.fault = note
    sender.use()
    await sender.succeeds()
    assert had == [["server:power.restart"]]


async def test_the_move_begins_before_the_server_stops(sender: Mover, node: MoveNode) -> None:
    node.fault = lambda kind, count: refused(507, "no-space") if kind == "begin" else None
    await sender.start()
    assert sender.calls == []
    assert sender.states[-1] == "failure"
    assert sender.server.hold == ""
    assert sender.said("the node says no-space")


@pytest.mark.parametrize("fault", [refused(404), refused(400, "move-version-unknown")])
async def test_a_destination_that_knows_no_moves_gets_a_stream(
    sender: Mover, node: MoveNode, fault: Fault
) -> None:
    node.fault = lambda kind, count: fault
    await sender.start()
    assert sender.states[-1] == "completed"
    assert len(node.archives) == 1
    assert node.asked == ["begin"]


@pytest.mark.parametrize("sender", [{"enabled": False}], indirect=True)
async def test_moves_can_be_disabled(sender: Mover, node: MoveNode) -> None:
    await sender.start()
    assert len(node.archives) == 1
    assert node.asked == []


@pytest.mark.promise("move-continues-after-breaks")
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, CUT_AFTER) for kind in ("resume", "batches", "rounds", "commit", "state")),
        *(("batches", fault) for fault in (CUT, refused(500, "x"))),
        *((kind, CUT_WITHIN) for kind in ("begin", "tree", "rounds")),
    ],
)
async def test_what_is_lost_is_sent_again(
    sender: Mover, node: MoveNode, kind: str, fault: Fault
) -> None:
    node.fault = lambda asked, count: fault if (asked, count) == (kind, 1) else None
    await sender.succeeds()
    assert node.count(kind) > 1
    assert sender.said("waiting for the destination, asking it again")
    # It goes on by itself.
    assert not sender.said("transfer the server again")


async def test_the_lists_of_transfers_show_what_a_move_waits_for(
    sender: Mover, node: MoveNode
) -> None:
    shown: list[str] = []

    def fault(kind: str, count: int) -> Fault:
        shown.extend(each.step_text for each in sender.transfers.progress)
        return CUT if (kind, count) == ("batches", 1) else None

    node.fault = fault
    await sender.succeeds()
    assert any("sending the archive; waiting for the destination: " in each for each in shown)
    assert "; waiting" not in shown[-1]


async def test_a_destination_that_is_started_anew_gets_only_what_it_lacks(
    sender: Mover, node: MoveNode
) -> None:
    def fault(kind: str, count: int) -> Fault:
        if (kind, count) == ("batches", 6):
            node.restart()
        return None

    node.limit = BATCH  # They grow with the line's rate otherwise.
    node.fault = fault
    await sender.succeeds()
    assert node.sessions == 2
    sent = sum(size for _, size in node.batches)
    assert sent < (sender.server.disk_bytes or 0) + 4 * BATCH
    assert sender.said("resumed: ")
    assert sender.heard.resumed == 1
    assert 0 < sender.heard.again <= 4 * BATCH


async def test_numbers_that_fit_no_batch_end_the_move(sender: Mover, node: MoveNode) -> None:
    zeros = dict.fromkeys(("shape", "file", "pages", "bytes"), 0)
    said = zeros | {"session": "s", "round": 1 << 32, "next": 1}
    node.fault = lambda kind, count: (200, dict(said)) if kind == "resume" else None
    await sender.fails()
    assert sender.said("its numbers are out of range")


async def test_a_proxy_that_asks_for_an_hour_is_not_waited_for_after_the_commit(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "LOST", 0.1)
    said = (503, {"headers": {"Retry-After": "3600"}})
    node.fault = lambda kind, count: (
        said if (kind, count) == ("commit", 1) or is_after_commit(node, kind) else None
    )
    over = sender.start()
    await until(lambda: node.count("commit") > 1)
    node.fault = lambda kind, count: None
    await over
    sender.check_moved()


@pytest.mark.promise("commit-outcome-is-asked-for")
async def test_a_destination_that_is_started_anew_after_the_commit_is_asked_again(
    sender: Mover, node: MoveNode
) -> None:
    def fault(kind: str, count: int) -> Fault:
        if is_after_commit(node, kind) and not node.commits:
            node.restart()
            node.commits = True
        return None

    node.fault, node.commits = fault, False
    await sender.succeeds()
    assert node.count("commit") == 2


async def test_a_body_that_is_always_too_large_ends_the_move(
    sender: Mover, node: MoveNode
) -> None:
    node.fault = lambda kind, count: refused(413) if kind == "batches" else None
    await sender.fails()
    assert sender.said("a proxy in front of it limits how much may be sent")


@pytest.mark.parametrize("kind", ["resume", "rounds", "commit", "state"])
async def test_a_request_that_cannot_become_smaller_ends_the_move(
    sender: Mover, node: MoveNode, kind: str
) -> None:
    answers = []

    def fault(asked: str, count: int) -> Fault:
        if asked == "batches" and kind == "state":
            return refused(503) if count == 1 else None  # so that the session is asked for
        if asked != kind or (kind == "state" and not node.count("batches")):
            return None
        answers.append(count)
        return refused(413) if len(answers) < 50 else None

    node.fault = fault
    await sender.fails()
    assert len(answers) == 1
    assert sender.said("a proxy in front of it limits how much may be sent")
    assert not sender.said("internal error")


@pytest.mark.parametrize(("code", "times"), [("move-batch-damaged", 3), ("move-shape-missing", 9)])
async def test_a_batch_comes_again(sender: Mover, node: MoveNode, code: str, times: int) -> None:
    status = 400 if "damaged" in code else 409

    def fault(kind: str, count: int) -> Fault:
        return refused(status, code) if kind == "batches" and count <= times else None

    node.fault = fault
    await sender.succeeds()


async def test_a_batch_that_is_always_damaged_ends_the_move(sender: Mover, node: MoveNode) -> None:
    node.fault = lambda kind, count: (
        refused(400, "move-batch-damaged") if kind == "batches" else None
    )
    await sender.fails()
    await until(lambda: node.deleted == ["keep"])
    assert sender.calls == ["stop", "remove", "restore"]


@pytest.mark.promise("different-trees-are-corrected")
async def test_another_root_is_answered_with_the_difference(sender: Mover, node: MoveNode) -> None:
    def fault(kind: str, count: int) -> Fault:
        return refused(409, "move-root-mismatch") if kind == "rounds" and count < 4 else None

    node.fault = fault
    await sender.succeeds()
    assert node.sessions == 4


@pytest.mark.promise("different-trees-are-corrected")
async def test_roots_that_stay_different_end_the_move(sender: Mover, node: MoveNode) -> None:
    node.fault = lambda kind, count: (
        refused(409, "move-root-mismatch") if kind == "rounds" else None
    )
    await sender.fails()
    assert node.sessions == 4
    assert sender.panel.settled_by == ["failure"]


async def test_sessions_that_never_last_end_the_move(sender: Mover, node: MoveNode) -> None:
    node.fault = lambda kind, count: (
        refused(409, "move-resume-needed") if kind == "batches" else None
    )
    await sender.fails()
    assert node.sessions <= 12


async def test_backups_and_the_log_come_in_pieces(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "PIECE", 100_000)
    backup = os.urandom(350_000)
    sender.keep(f"{BACKUPS[0]}.tar.gz", backup)
    log = sender.logs / "install" / f"{UUID}.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"installed\n" * 1000)
    node.fault = lambda kind, count: CUT_AFTER if kind == "attachments" and count == 3 else None
    await sender.succeeds(backups=(BACKUPS[0],), archive_format="tar_gz")
    assert node.attachments == {BACKUPS[0]: backup, "install.log": log.read_bytes()}
    assert node.whole == set(node.attachments)
    assert node.order["log"] == 10_000
    assert node.order["backups"][0]["bytes"] == len(backup)


@pytest.mark.promise("room-is-checked-before-the-stop")
async def test_what_the_files_take_on_the_disk_is_announced_without_holes(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (sender.tree / "sparse").open("wb") as sparse:
        sparse.truncate(64 << 20)
    sender.server.measure_if_stale()
    monkeypatch.setattr(move, "REHEARSE_EVERY", 0.01)
    monkeypatch.setattr(move, "PREPARE_PAUSE", 0.01)
    node.prepared = {"state": "failed", "error": "x", "detail": "y", "code": "move-no-space"}
    over = sender.start()
    await until(lambda: node.count("prepare") > 0)
    order = node.order
    assert order["bytes"] > 64 << 20
    assert 2_700_000 <= order["disk_bytes"] < 3_500_000
    names = [path for path in sender.tree.rglob("*") if path.name != "again"]
    assert order["files"] == len(names)
    assert node.measured == {key: order[key] for key in ("disk_bytes", "files")}
    (sender.tree / "grown").write_bytes(b"x" * (1 << 20))
    await until(lambda: node.measured["files"] == len(names) + 1)
    assert node.measured["disk_bytes"] == order["disk_bytes"] + (1 << 20)
    assert sender.calls == []
    node.prepared = {"state": "ready"}
    await over
    sender.check_moved()


async def test_a_cancelled_move_leaves_nothing_there(sender: Mover, node: MoveNode) -> None:
    there: Deferred[None] = Deferred()

    def fault(kind: str, count: int) -> Fault:
        if (kind, count) == ("batches", 4):
            there.callback(None)
        return "silent" if kind == "batches" and count > 3 else None

    node.fault = fault
    over = sender.start()
    await there
    sender.transfers.cancel(UUID)
    await over
    await until(lambda: node.deleted == ["all"])
    assert sender.states[-1] == "failure"
    assert sender.calls == ["stop", "remove", "restore"]
    assert sender.server.hold == ""


@pytest.mark.parametrize("sender", [{"patience": 0.3}], indirect=True)
async def test_nothing_gets_through_for_as_long_as_patience_lasts(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.fault = lambda kind, count: CUT if kind == "batches" else None
    monkeypatch.setattr(moves.MoveTrouble, "EVERY", 0.1)
    await sender.fails()
    assert sum("does not go on" in line for line in sender.lines) <= 4
    await until(lambda: node.deleted == ["keep"])


@pytest.mark.promise("full-disk-during-a-move")
async def test_a_disk_that_is_full_of_temporary_files_fails_the_move_and_nothing_else(
    sender: Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        (sender.tree / f"{number}-{'long' * 50}").write_bytes(b"a file")
    limit_trees(monkeypatch, str(sender.scratch))
    before = tree_of(sender.tree)
    await sender.fails()
    assert sender.said("could not be kept in a temporary file: database or disk is full")
    await until(lambda: sender.store.unfinished() == [])
    assert sender.calls == ["stop", "remove", "restore"]
    assert (tree_of(sender.tree), sender.server.hold) == (before, "")
    assert list(sender.scratch.iterdir()) == []


async def test_what_shrinks_is_compressed_and_its_type_says_so(
    sender: Mover, node: MoveNode
) -> None:
    (sender.tree / "log").write_bytes(b"the same line\n" * 100_000)
    await sender.succeeds()
    types = {
        request.getHeader("Content-Type")
        for request in node.requests
        if b"/batches/" in request.path
    }
    assert types == {"application/vnd.wingsd.batch", "application/vnd.wingsd.batch+zstd"}


@pytest.mark.promise("source-files-are-kept-for-days")
async def test_files_of_a_server_that_ran_are_kept_after_its_move(sender: Mover) -> None:
    sender.follow(LiveMovesConfig())
    await sender.succeeds()
    await sender.delete()
    assert sender.calls[-1] == "keep moved"
    assert not sender.store.unfinished()


async def test_the_panels_deletion_confirms_a_move(sender: Mover, node: MoveNode) -> None:
    node.commits = False
    over = sender.start()
    await until(lambda: node.count("state") > 1)
    await sender.delete()
    await over
    assert sender.states[-2:] == ["success", "completed"]
    assert "failure" not in sender.panel.calls


@pytest.mark.promise("move-begins-once")
@pytest.mark.parametrize("sender", [{"patience": 0.3}], indirect=True)
async def test_a_beginning_that_was_not_answered_is_withdrawn(
    sender: Mover, node: MoveNode
) -> None:
    """Also where an earlier version begins it for that, and is to delete it."""

    def fault(kind: str, count: int) -> Fault:
        is_first = kind == "begin" and "only_known" not in node.order
        return CUT_AFTER if is_first else None

    node.fault = fault
    await sender.fails()
    await until(lambda: node.deleted == ["keep"])
    assert node.order["only_known"] is True
    assert node.sessions == 0


def set_attributes(sender: Mover) -> Path:
    file = sender.tree / "region0"
    os.setxattr(file, "user.note", b"1")
    os.setxattr(file, ACCESS, acl(users={4033: 7}, group=0, mask=7))
    return file


async def test_attributes_come_with_it_to_nodes_that_keep_them(
    sender: Mover, node: MoveNode
) -> None:
    node.features += ", move-2"
    set_attributes(sender)

    await sender.start()

    sender.check_moved()
    assert node.order["version"] == 2
    assert seen(node.copy.tree) == seen(sender.tree)
    assert not sender.said("extended attributes")


@pytest.mark.promise("attributes-are-moved")
@pytest.mark.parametrize("features", ["", ", move-2"])
async def test_one_line_counts_what_a_node_does_not_keep(
    sender: Mover, node: MoveNode, features: str
) -> None:
    node.features += features
    node.attributes_kept = []
    set_attributes(sender)

    await sender.start()

    assert sender.states[-1] == "completed"
    assert node.order["version"] == (2 if features else 1)
    there = node.copy.tree / "region0"
    assert os.listxattr(there) == []
    assert there.stat().st_mode & 0o070 == 0
    lines = [line for line in sender.lines if "extended attributes" in line]
    assert len(lines) == 1
    assert "1 file without" in lines[0]


# Moves that resume, at their source: the first request, and the commit, get lost or refused


@pytest.mark.promise("move-begins-once")
async def test_a_beginning_that_was_not_answered_is_withdrawn_by_a_cancel(
    sender: Mover, node: MoveNode
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
    sender: Mover, node: MoveNode, code: str
) -> None:
    node.fault = lambda kind, count: refused(503, code) if kind == "begin" and count < 4 else None
    await sender.succeeds()


@pytest.mark.promise("move-begins-once")
@pytest.mark.parametrize("exp", ["?", 9_000])
async def test_the_beginning_is_tried_as_long_as_its_token_is_good(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, exp: float | str | None
) -> None:
    monkeypatch.setattr(move, "BEGIN_WITHIN", 0.05)
    node.fault = lambda kind, count: CUT if kind == "begin" and count < 10 else None
    claims = {} if exp is None else {"exp": exp if isinstance(exp, str) else time.time() + exp}
    node.token = jwt.encode(claims, "a key of the other node, unknown here", "HS256")
    await sender.start(authorization=f"Bearer {node.token}")
    assert ("completed" in sender.states) is isinstance(exp, int)


async def test_a_failure_at_the_destination_has_the_panel_decide(
    sender: Mover, node: MoveNode
) -> None:
    failed = {"phase": "over", "outcome": "failure", "error": "no space", "detail": "free some"}
    node.fault = lambda kind, count: (200, dict(failed)) if is_after_commit(node, kind) else None
    await sender.start()
    assert sender.panel.settled_by == ["owns", "failure"]
    assert sender.said("the destination node says: no space")
    assert sender.states[-1] == "failure"


@pytest.mark.promise("commit-outcome-is-asked-for")
@pytest.mark.parametrize("fault", [CUT, refused(502)])
async def test_a_silent_destination_is_waited_for_until_the_panel_has_moved_the_server(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(move, "LOST", 0.01)
    node.fault = lambda kind, count: fault if is_after_commit(node, kind) else None
    over = sender.start()
    await until(lambda: sender.panel.calls.count("owns") > 2)
    assert not over.called
    sender.panel.owned = False
    await over
    sender.check_moved()
    assert node.count("commit") == 1
    assert sender.said("moved: only the destination's answer was lost")


@pytest.mark.parametrize("code", ["", "move-over"])
async def test_while_the_panel_denies_its_transfer_only_the_destinations_own_refusal_counts(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(callbacks, "MINUTE_BACKOFF", Backoff(0.01, 0.01))
    sender.panel.denials = 1_000_000 if not code else 1
    fault = refused(403, code)
    node.fault = lambda kind, count: fault if is_after_commit(node, kind) else None
    names: list[str] = []
    sender.bus.subscribe(sender.server.uuid, lambda event: names.append(event.name))
    over = sender.start()
    if not code:
        await until(lambda: sender.panel.calls.count("failure") > 2)
        assert not over.called
        sender.panel.owned = False
    await over
    assert sender.states[-1] == ("failure" if code else "completed")
    if code:
        # The Panel has known it since then: pages ask it again.
        await until(lambda: names[-1] == TRANSFER_REPORTED)


# Destinations of moves that have their source ask them again and again


def check_stays(sender: Mover, text: str) -> None:
    assert sender.states[-1] == "failure"
    assert sender.said(text)
    assert sender.server.operations.hold is None


async def test_a_round_that_is_never_closed_has_an_end_though_batches_are_taken(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
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
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, Cause.PIECE_IN_PART, 20)
    sender.keep(f"{BACKUPS[0]}.tar.gz", os.urandom(100_000))
    node.fault = lambda kind, number: (
        (200, {"offset": number - 1}) if kind == "attachments" else None
    )
    await sender.start(backups=(BACKUPS[0],), archive_format="tar_gz")
    check_stays(sender, "takes backups or the log only in small pieces")
    assert node.count("attachments") == 22


@pytest.mark.parametrize("offset", [-1])
async def test_a_negative_offset_is_refused_before_anything_is_read(
    sender: Mover, node: MoveNode, offset: int
) -> None:
    sender.keep(f"{BACKUPS[0]}.tar.gz", os.urandom(100_000))
    node.fault = lambda kind, _: (200, {"offset": offset}) if kind == "attachments" else None
    await sender.start(backups=(BACKUPS[0],), archive_format="tar_gz")
    assert sender.states[-1] == "failure"
    assert not sender.said("internal error")
    assert node.count("attachments") == 1


async def test_a_commit_that_always_needs_something_else_has_an_end(
    sender: Mover, node: MoveNode, monkeypatch: pytest.MonkeyPatch
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
