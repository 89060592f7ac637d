"""A server that is moved to this node by many requests."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from twisted.internet.defer import Deferred

from tests.support.attributes import ACCESS, acl, entries
from tests.support.full_trees import limit_trees
from tests.support.logged_errors import Logged
from tests.support.move_client import Answer, MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.nodes import LEVEL, MovingNode, Nodes
from wingsd.errors import (
    MoveAbandoned,
    MoveGivenUp,
    PanelUnreachable,
    ServerNotAssigned,
    TransferCancelled,
    WingsdError,
)
from wingsd.statedb import Direction, MoveRecord, StateDatabase
from wingsd.transfers.incoming.moves import inbox
from wingsd.transfers.incoming.moves.inbox import Attachments
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep, PartialCopy
from wingsd.transfers.incoming.moves.transfer import MoveTransfer

BACKUP = "5e0c1f5c-1b5e-4d39-9f1a-0d9b6a2f0001"
OTHER, PART = (f"{BACKUP[:-1]}{number}" for number in (2, 3))


async def test_a_server_moves(node: MovingNode, source: Path) -> None:
    client = node.client(source)
    status = await client.move(bytes=len(LEVEL))
    assert (status["phase"], status["outcome"]) == ("over", "success")
    assert node.has_level()
    assert (node.data / UUID / "latest").readlink() == Path("world")
    assert node.calls == ["owns", "describe", "create", "success", "sync"]
    assert node.states == ["pending", "processing", "success", "completed"]
    await until(lambda: node.left() == [UUID])
    assert node.servers.sizes == [len(LEVEL) + len("port=25565\n")]


async def test_backups_and_the_log_come_with_it_in_pieces(node: MovingNode, source: Path) -> None:
    backup, log = b"backup" * 50_000, b"installed\n"
    announced = {"uuid": BACKUP, "path": f"{BACKUP}.tar.gz", "bytes": len(backup)}
    client = node.client(source)
    await client.begin(backups=[announced], log=len(log))
    await client.send()
    early = await client.commit()
    assert (early.status, early.code) == (409, "move-attachments-incomplete")
    await client.attach(BACKUP, backup)
    await client.attach("install.log", log)
    await client.finish()
    await until(lambda: node.left() == [UUID])
    assert node.kept() == {f"{BACKUP}.tar.gz": backup, f"install/{UUID}.log": log}


async def test_what_an_earlier_move_has_left_of_other_attachments_is_not_put_into_place(
    node: MovingNode, source: Path
) -> None:
    backups = {BACKUP: b"deleted since", OTHER: b"there still", PART: b"deleted as well"}
    announced = [
        {"uuid": uuid, "path": f"{uuid}.tar.gz", "bytes": len(data)}
        for uuid, data in backups.items()
    ]
    first = node.client(source)
    await first.begin(backups=announced, log=20)
    await first.send()
    for uuid in (BACKUP, OTHER):
        await first.attach(uuid, backups[uuid])
    for name in (PART, "install.log"):
        path, params = f"/attachments/{name}", first.in_session(offset=0)
        assert (await first.ask("PATCH", path, data=b"deleted as", params=params)).status == 200
    await first.give_up()
    await node.rest()
    client = await node.half_sent(source, backups=announced[1:2], log=4)
    await client.attach(OTHER, backups[OTHER])
    await client.attach("install.log", b"new\n")
    await client.finish()
    await until(lambda: node.left() == [".kept", UUID])
    assert node.kept() == {f"{OTHER}.tar.gz": backups[OTHER], f"install/{UUID}.log": b"new\n"}


async def test_an_attachment_that_was_changed_on_its_way_begins_again(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open(log=5)
    wrong = client.in_session(offset=0, sha256=hashlib.sha256(b"other").hexdigest())
    path = "/attachments/install.log"
    answer = await client.ask("PATCH", path, data=b"bytes", params=wrong)
    assert (answer.status, answer.code, answer.json["offset"]) == (409, "move-offset-wrong", 0)
    behind = await client.ask("PATCH", path, data=b"s", params=client.in_session(offset=4))
    assert (behind.status, behind.json["offset"]) == (409, 0)
    await client.attach("install.log", b"bytes", piece=2)
    unknown = await client.ask("GET", "/attachments/other", params=client.in_session())
    assert (unknown.status, unknown.code) == (404, "move-attachment-unknown")


async def test_an_attachment_of_an_earlier_move_that_is_another_one_now_begins_again(
    node: MovingNode, source: Path
) -> None:
    first = node.client(source)
    announced = {"uuid": BACKUP, "path": f"{BACKUP}.tar.gz", "bytes": 6}
    await first.begin(backups=[announced], log=6)
    await first.send()
    for name in (BACKUP, "install.log"):
        await first.attach(name, b"before")
    client = await node.half_sent(source, backups=[announced], log=6)
    for name in (BACKUP, "install.log"):
        path, sha256 = f"/attachments/{name}", hashlib.sha256(b"behind").hexdigest()
        params = client.in_session(offset=6, sha256=sha256)
        if (await client.ask("GET", path, params=client.in_session())).json["offset"]:
            refused = await client.ask("PATCH", path, data=b"", params=params)
            assert (refused.status, refused.code) == (409, "move-offset-wrong")
        await client.attach(name, b"behind")
    await client.finish()
    assert node.kept() == {f"{BACKUP}.tar.gz": b"behind", f"install/{UUID}.log": b"behind"}


async def test_what_comes_in_the_place_of_something_else_does_not_count_twice(
    node: MovingNode, source: Path
) -> None:
    client = node.client(source)
    await client.begin(bytes=len(LEVEL))
    await client.send()
    await client.resume()
    for number in range(3):
        (source / "world" / "level.dat").write_bytes(bytes([number]) * len(LEVEL))
        await client.put_all(client.round())
        assert (await client.close()).status == 200
    files = (path for path in source.rglob("*") if path.is_file())
    assert node.inbox.held == sum(path.lstat().st_size for path in files)


async def test_batches_may_be_compressed_and_come_twice_and_share_a_connection(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    batches = client.round()
    for batch in batches:
        for _ in range(2):
            assert (await client.put(batch, zstd=True)).status == 200
    assert (await client.close()).json == {"root": client.root_digest}
    status = (await client.status()).json
    assert (status["round"], status["received"]) == (client.filler.round + 1, len(batches))
    await until(lambda: len(node.http.site.connections) == 1)
    files = (path for path in source.rglob("*") if path.is_file())
    assert node.inbox.held == sum(path.lstat().st_size for path in files)
    await client.finish()


async def test_the_first_request_may_come_again(node: MovingNode, source: Path) -> None:
    client = node.client(source)
    first, second = await client.begin(), await client.begin()
    assert (first.status, second.status) == (201, 200)
    assert first.json == second.json
    other = node.client(source, client._token)
    answer = await other.begin()
    assert (answer.status, answer.code) == (401, "token-used")


@pytest.mark.promise("move-continues-after-breaks", "source-key-is-for-one-move")
async def test_a_break_costs_nothing_that_has_arrived(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    await client.put_all(client.round())
    sent = client.bytes
    old = client.session
    answer = await client.resume()
    assert answer.json["bytes"] > len(LEVEL)
    assert client.session != old
    late = await client.ask(
        "POST", "/rounds/1", params={"session": old}, json={"last": 1, "root": "0" * 64}
    )
    assert (late.status, late.code) == (409, "move-resume-needed")
    await client.put_all(client.round())
    assert client.bytes - sent < 1000
    assert (await client.close()).status == 200
    await client.finish()
    assert any("goes on where it was" in line for line in node.lines)


@pytest.mark.promise("full-disk-during-a-move")
async def test_a_disk_without_room_for_the_tree_is_told_and_costs_nothing(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (source / f"{number}-{'long' * 50}").write_bytes(b"a file")
    client = node.client(source)
    with monkeypatch.context() as patch:
        limit_trees(patch, node.staging.path)
        await client.begin()
        assert (await client.resume()).status == 200
        for batch in client.round():
            full = await client.put(batch)
            if full.status != 200:
                break
        assert (full.status, full.code) == (507, "move-no-space")
        assert "temporary file" in full.json["detail"]
    await client.send()
    await client.finish()
    assert len(list((node.data / UUID).iterdir())) == 304


@pytest.mark.parametrize("ends", ["stop", "end"])
async def test_a_restart_of_the_node_costs_nothing_that_is_durable(
    nodes: Nodes[MovingNode], source: Path, ends: str
) -> None:
    first = nodes.start()
    client = await first.client(source).open()
    await client.put_all(client.round())
    await getattr(first, ends)()
    second = await nodes.next(client)
    await until(second.takes_requests)
    assert (await client.begin()).status == 200
    refused = await client.close()
    assert (refused.status, refused.code) == (409, "move-resume-needed")
    sent = client.bytes
    await client.send()
    assert client.bytes - sent < 1000
    await client.finish()
    assert "failure" not in first.calls + second.calls
    assert second.has_level()


@pytest.mark.promise("move-begins-once")
@pytest.mark.parametrize("moment", ["_admit", "_open"])
async def test_a_node_that_dies_before_it_has_answered_the_beginning_begins_it_again(
    nodes: Nodes[MovingNode], source: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = nodes.start()
    there: Deferred[None] = Deferred()

    async def wait(*_: object) -> None:
        there.callback(None)
        await Deferred[None]()

    client = first.client(source)
    with monkeypatch.context() as patch:
        patch.setattr(MoveTransfer, moment, wait)
        begun = Deferred.fromCoroutine(client.begin())
        await there
        # Recorded is all of it, or nothing.
        recorded = len(first.store.unfinished())
        assert recorded == len(first.store.open_moves()) == (moment == "_open")
        await first.end()
    with pytest.raises(requests.ConnectionError):
        await begun
    second = await nodes.next(client)
    assert (await client.begin()).status == (200 if recorded else 201)
    await until(second.takes_requests)
    await client.send()
    await client.finish()
    assert "failure" not in first.calls + second.calls


async def test_a_request_during_the_start_is_to_be_sent_again(
    nodes: Nodes[MovingNode], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nodes.start()
    client = first.client(source)
    await client.begin()
    second = await nodes.replace()
    client.move_to(second.uploads)

    async def find(database: StateDatabase, direction: Direction, move: str) -> MoveRecord | None:
        found = database.store.find_move(direction, move)
        await second.recover()
        await until(second.takes_requests)
        return found

    monkeypatch.setattr(StateDatabase, "find_move", find, raising=False)
    early = await client.resume()
    assert (early.status, early.code) == (503, "move-busy")
    assert (await client.resume()).status == 200


async def test_the_outcome_is_told_after_a_restart(nodes: Nodes[MovingNode], source: Path) -> None:
    first = nodes.start()
    client = first.client(source)
    await client.move()
    await nodes.next(client)
    status = await client.status()
    assert (status.json["phase"], status.json["outcome"]) == ("over", "success")
    assert (await client.commit()).status == 202
    gone = await client.resume()
    assert (gone.status, gone.code) == (410, "move-over")


@pytest.mark.promise("stuck-final-round-is-given-up")
async def test_the_steps_of_a_destination_grow_while_it_makes_the_root(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By them the source sees that the end of a round is being worked on."""
    # Nothing is read back meanwhile, for which the tree is gone through as well.
    monkeypatch.setattr(CopyUpkeep, "read_behind", lambda _: None)
    client = await node.client(source).open()
    await client.put_all(client.round())
    steps = (await client.status()).json["steps"]
    assert (await client.status()).json["steps"] == steps
    assert (await client.close()).status == 200
    assert (await client.status()).json["steps"] > steps


@pytest.mark.promise("move-begins-once")
async def test_a_beginning_that_is_withdrawn_begins_nothing(
    node: MovingNode, source: Path
) -> None:
    client = node.client(source)
    refused = await client.begin(only_known=True)
    assert (refused.status, refused.code) == (404, "move-not-found")
    assert (node.store.transfers(), node.left(), node.calls) == ([], [], [])
    late = await client.begin()
    assert (late.status, late.code) == (401, "token-used")
    assert (node.store.transfers(), node.left()) == ([], [])


async def test_a_beginning_that_is_withdrawn_names_the_move_that_was_begun(
    node: MovingNode, source: Path
) -> None:
    client = node.client(source)
    begun = await client.begin(a_field_of_later_versions=True)
    known = await client.begin(only_known=True)
    assert (begun.status, known.status) == (201, 200)
    assert known.json["id"] == begun.json["id"]
    assert len(node.store.transfers()) == 1


@pytest.mark.root
async def test_extended_attributes_and_acls_come_with_a_move_of_version_2(
    node: MovingNode, source: Path
) -> None:
    for path in (source, source / "world", source / "world" / "level.dat", source / "empty"):
        os.setxattr(path, "user.note", b"1")
        os.setxattr(path, ACCESS, acl(users={4033: 7, os.getuid(): 1}, group=0, mask=7))
    client = node.client(source)

    await client.move(version=2)

    assert client.begun["attributes"] == ["user", "acl"]
    for name in ("", "world", "world/level.dat", "empty"):
        path = node.data / UUID / name
        expected = acl(users={4033: 7, path.stat().st_uid: 1}, group=0, mask=7)
        assert os.getxattr(path, "user.note") == b"1"
        assert entries(os.getxattr(path, ACCESS)) == entries(expected)


# Moves that end before their copy is open, after a restart of the node or at their beginning


async def left_by_a_daemon(nodes: Nodes[MovingNode], source: Path) -> MovingNode:
    """Return a node, before its recovery, of which an earlier daemon has received all files."""
    await nodes.start().half_sent(source)
    return await nodes.replace()


async def goes_on_with_all(node: MovingNode, source: Path) -> None:
    """Move a server whose files are here."""
    client = node.client(source)
    assert (await client.move())["outcome"] == "success"
    assert client.bytes < 1000


async def test_a_move_that_the_panel_has_ended_while_this_node_was_away_is_kept(
    nodes: Nodes[MovingNode], source: Path
) -> None:
    node = await left_by_a_daemon(nodes, source)
    node.faults["describe"] = ServerNotAssigned("not for this node")
    await node.recover()
    await node.rest()
    assert node.copies() == [UUID]
    (copy,) = node.partial_copies.kept()
    assert copy.bytes >= len(LEVEL)
    del node.faults["describe"]
    await goes_on_with_all(node, source)


@pytest.mark.parametrize(
    ("reason", "reports", "stays"),
    [
        (TransferCancelled(), 1, False),
        (MoveAbandoned(3600), 1, True),
        (MoveGivenUp(keeps=True), 0, True),
        (MoveGivenUp(keeps=False), 0, False),
    ],
)
async def test_a_move_that_has_failed_does_not_go_on_where_the_daemon_dies_before_it_is_cleaned_up(
    nodes: Nodes[MovingNode],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: WingsdError,
    reports: int,
    stays: bool,
) -> None:
    first = nodes.start()
    cleaning: Deferred[None] = Deferred()

    async def wait(_: MoveTransfer) -> None:
        cleaning.callback(None)
        await Deferred[None]()

    with monkeypatch.context() as patch:
        patch.setattr(MoveTransfer, "_put_away", wait)
        client = await first.half_sent(source)
        receiving: Any = first.receiver.find(UUID)
        assert receiving.abort(reason)
        await cleaning
        await until(lambda: first.calls.count("failure") == reports)
        await first.end()
    second = await nodes.next(client)
    await second.rest()
    status = await client.outcome()
    assert (status["outcome"], status["code"]) == ("failure", reason.code)
    assert second.copies() == [UUID] * stays
    assert "failure" not in second.calls


async def test_a_later_transfer_gets_the_files_of_a_move_that_is_not_open_again(
    nodes: Nodes[MovingNode], source: Path
) -> None:
    node = await left_by_a_daemon(nodes, source)
    node.faults["owns"] = PanelUnreachable("the Panel does not answer")
    await node.recover()
    await node.reaches("owns")
    del node.faults["owns"]
    await goes_on_with_all(node, source)


async def test_a_node_that_has_no_room_to_read_what_is_kept_keeps_it(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        (source / f"{number}-{'long' * 50}").write_bytes(b"a file")
    client = await node.half_sent(source)
    await client.give_up()
    await node.rest()
    with monkeypatch.context() as patch:
        limit_trees(patch, node.staging.path)
        full = await node.client(source).begin()
        assert (full.status, full.code) == (507, "move-no-space")
        await node.rest()
    assert node.copies() == [UUID]
    await goes_on_with_all(node, source)


async def test_people_are_told_why_a_copy_is_begun_anew(
    nodes: Nodes[MovingNode], source: Path, logged: Logged
) -> None:
    node = await left_by_a_daemon(nodes, source)
    (ledger,) = Path(node.staging.path).glob("*.ledger")
    written = bytearray(ledger.read_bytes())
    written[100] ^= 1
    ledger.write_bytes(written)
    await node.recover()
    await until(node.takes_requests)
    said = f"{UUID}: the received data of its move is removed, and sent again: "
    (line,) = [line for line in logged.lines if line.startswith(said)]
    assert "check this node's disk and memory" in line


# What takes a destination long is answered before a proxy gives up, and asked for again


class SlowWork:
    """Methods of partial copies that do not return before `finish`, in whatever thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: How often one was called.
        self.done = 0
        self._end = threading.Event()
        self._monkeypatch = monkeypatch

    def slow(self, name: str, kind: type = PartialCopy) -> None:
        """Have a method take long, and be answered soon."""
        self._monkeypatch.setattr(inbox, "ANSWERED_WITHIN", 0.1)
        self._monkeypatch.setattr(inbox, "TURN", 0.1)
        method = getattr(kind, name)

        def slow(made: Any, *args: Any) -> Any:
            self.done += 1
            result = method(made, *args)
            self._end.wait(30)
            return result

        self._monkeypatch.setattr(kind, name, slow)

    def finish(self) -> None:
        self._monkeypatch.setattr(inbox, "ANSWERED_WITHIN", 30.0)
        self._end.set()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowWork]:
    work = SlowWork(monkeypatch)
    yield work
    work.finish()


def is_busy(answer: Answer) -> bool:
    return (answer.status, answer.code) == (503, "move-busy")


async def finish(client: MoveClient) -> None:
    assert (await client.close()).status == 200
    await client.finish()


@pytest.mark.promise("move-passes-strict-proxies")
async def test_a_session_is_begun_by_the_request_that_comes_when_it_is_ready(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = node.client(source)
    await client.begin()
    work.slow("resume")
    assert is_busy(await client.resume())
    assert is_busy(await client.resume())
    work.finish()
    assert (await client.resume()).status == 200
    assert work.done == 1
    await client.put_all(client.round())
    await finish(client)


async def test_a_round_is_closed_once_however_often_that_is_asked(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = await node.client(source).open()
    await client.put_all(client.round())
    work.slow("close_round")
    assert is_busy(await client.close())
    assert is_busy(await client.close())
    work.finish()
    await finish(client)
    assert work.done == 1


@pytest.mark.promise("move-passes-strict-proxies")
async def test_the_end_of_a_backup_is_worked_for_once_however_often_it_comes(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = await node.half_sent(source, log=5)
    work.slow("append", Attachments)
    path = "/attachments/install.log"
    sha256 = hashlib.sha256(b"bytes").hexdigest()
    for _ in range(4):
        params = client.in_session(offset=0, sha256=sha256)
        assert is_busy(await client.ask("PATCH", path, data=b"bytes", params=params))
    # nor does a session begin while it goes on
    assert is_busy(await client.ask("POST", "/resume", json={}))
    assert work.done == 1
    work.finish()
    await client.resume()
    await client.attach("install.log", b"bytes")
    await client.put_all(client.round())
    await finish(client)
