"""Sources of moves that do what they may not: each is refused, and nothing is changed by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.support.move_client import Answer, MoveClient
from tests.support.reactor import until
from tests.support.receiver import SINGLE, Source
from tests.support.sample_server import UUID
from tests.transfers.incoming.nodes import MovingNode
from wingsd.api import moves
from wingsd.moves.batch import (
    BatchKind,
    DirectoryFrame,
    FileFrame,
    WholeFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import block_digest
from wingsd.moves.filling import deflated
from wingsd.panel.schemas import Configuration, Settings
from wingsd.transfers.incoming.moves import partial_copy
from wingsd.transfers.incoming.uploads import UploadTransfer

OTHER = "11111111-2222-4333-8444-555555555555"
DEEP = [b"/".join([b"d" * 255] * depth) for depth in range(1, 31)]
ZSTD = {"Content-Type": "application/vnd.wingsd.batch+zstd"}


def refused(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


def whole(path: bytes = b"file", data: bytes = b"data") -> WholeFrame:
    return WholeFrame(path, 0o644, 1, len(data), block_digest(data))


def encoded(number: int, in_round: int, *frames: Any, data: bytes = b"", needs: int = 0) -> bytes:
    kind = BatchKind.DATA if isinstance(frames[0], WholeFrame) else BatchKind.SHAPE
    index = make_index(kind, number, in_round, needs, frames)
    return b"".join(encode_batch(index, [data] if data else []))


@pytest.mark.promise("source-key-is-for-one-move")
async def test_only_the_source_has_the_word(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    for key in ("0" * 64, "nothing", client._token):
        answer = await client.ask("GET", "", key=key)
        assert refused(answer) == (401, "move-key-invalid")
        answer = await client.ask("PUT", "/batches/1", key=key, data=b"x" * 100)
        assert refused(answer) == (401, "move-key-invalid")
    stranger = MoveClient(node.uploads, OTHER, node.token(OTHER), source)
    stranger.id, stranger.key = client.id, client.key
    assert refused(await stranger.status()) == (404, "move-not-found")
    client.id = "0" * 32
    assert refused(await client.status()) == (404, "move-not-found")


@pytest.mark.promise("source-key-is-for-one-move")
async def test_a_token_is_for_one_server_and_not_for_ever(node: MovingNode, source: Path) -> None:
    wrong = node.client(source, node.token(OTHER))
    assert refused(await wrong.begin()) == (401, "token-invalid")
    old = node.client(source, node.token(exp=1))
    assert refused(await old.begin()) == (401, "token-expired")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"key": "short"},
        {"key": "G" * 64},
        {"log": -1},
        {"log": 1 << 40},
        {"backups": [{"uuid": OTHER, "path": "../../etc/passwd", "bytes": 1}]},
        {"backups": [{"uuid": OTHER, "path": f"{UUID}.tar.gz", "bytes": 1}]},
        {"backups": [{"uuid": OTHER, "path": f"{OTHER}.tar.gz", "bytes": 1}] * 2},
    ],
)
async def test_what_a_move_is_begun_with_is_checked(
    node: MovingNode, source: Path, changes: dict[str, Any]
) -> None:
    answer = await node.client(source).begin(**changes)
    assert answer.status == 400
    assert answer.code in ("move-request-invalid", "move-version-unknown")
    assert node.receiver.servers == ()


async def test_a_body_of_data_is_bounded(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    answer = await client.ask("POST", "/resume", data=b"[" * 3_000_000)
    assert refused(answer) == (413, "body-too-large")
    answer = await client.ask("POST", "/resume", data=b"[" * 1_000)
    assert answer.status == 400


@pytest.mark.promise("move-requests-are-bounded")
async def test_a_batch_is_bounded_by_what_was_told(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    limit = 16 << 20
    answer = await client.put_bytes(1, b"x" * (limit + 1))
    assert refused(answer) == (413, "move-batch-too-large")

    def chunks() -> Iterator[bytes]:
        index = encoded(1, client.held["round"], whole(data=b"x" * 60_000))
        yield index
        for _ in range(20):
            yield b"x" * (1 << 20)

    answer = await client.put_bytes(1, chunks())
    assert answer.status in (400, 413)
    assert (await client.status()).json["received"] == 0


@pytest.mark.promise("move-requests-are-bounded")
async def test_a_batch_is_bounded_by_that_before_it_was_compressed_as_well(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    names = [whole(b"%d/%b" % (n, DEEP[-1]), b"") for n in range(1_200)]
    blocks = [whole(b"%d" % n, bytes(60_000)) for n in range(200)]
    for frames, data in ((names, b""), (blocks, bytes(200 * 60_000))):
        body = b"".join(deflated([encoded(1, client.held["round"], *frames, data=data)]))
        assert len(body) < 1 << 20
        answer = await client.put_bytes(1, body, headers=ZSTD)
        assert refused(answer) == (413, "move-batch-too-large")


@pytest.mark.promise("source-key-is-for-one-move")
async def test_batches_that_are_none_or_lie_are_refused(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    in_round = client.held["round"]
    good = encoded(1, in_round, whole(), data=b"data")
    for body, codes in {
        b"": {"move-batch-invalid"},
        b"no batch at all": {"move-batch-invalid"},
        good[:-1]: {"move-batch-invalid"},
        good + b"x": {"move-batch-invalid"},
        good[:-1] + b"x": {"move-batch-damaged"},
        good[:60] + b"\xff" + good[61:]: {"move-batch-damaged"},
        encoded(1, in_round, DirectoryFrame(b"../up", 0o755, 1)): {
            "move-batch-invalid",
            "move-frame-refused",
        },
        encoded(1, in_round, whole(b"no/directory"), data=b"data"): {"move-frame-refused"},
        encoded(1, in_round, FileFrame(1, b"f", 0o644, 1, 1 << 62, 65536)): {
            "move-frame-refused",
            "move-batch-invalid",
        },
    }.items():
        answer = await client.put_bytes(1, body)
        assert answer.status == 400, (body[:40], answer)
        assert answer.code in codes, body[:40]
    mixed = await client.put_bytes(2, good)
    assert refused(mixed) == (400, "move-request-invalid")
    headers = {"Content-Type": "application/vnd.wingsd.batch+zstd"}
    none = await client.put_bytes(1, good, headers=headers)
    assert refused(none) == (400, "move-batch-invalid")
    assert (await client.put_bytes(1, good)).status == 200
    assert (await client.status()).json["received"] == 1


@pytest.mark.promise("source-key-is-for-one-move")
async def test_gaps_and_other_contents_are_refused(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    in_round = client.held["round"]
    far = await client.put_bytes(99, encoded(99, in_round, whole(), data=b"data"))
    assert refused(far) == (409, "move-shape-missing")
    gap = encoded(3, in_round, whole(), data=b"data", needs=2)
    assert refused(await client.put_bytes(3, gap)) == (409, "move-shape-missing")
    assert (await client.put_bytes(1, encoded(1, in_round, whole(), data=b"data"))).status == 200
    changed = encoded(1, in_round, whole(data=b"DATA"), data=b"DATA")
    other = await client.put_bytes(1, changed)
    assert refused(other) == (409, "move-batch-conflict")
    wrong_round = encoded(2, in_round + 1, whole(b"b"), data=b"data")
    assert refused(await client.put_bytes(2, wrong_round)) == (409, "move-batch-conflict")


@pytest.mark.promise("source-key-is-for-one-move")
async def test_a_move_is_committed_once_and_only_what_was_closed(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    early = await client.ask(
        "POST",
        "/commit",
        params=client.in_session(),
        json={"round": 1, "root": "0" * 64, "running": False},
    )
    assert refused(early) == (409, "move-root-mismatch")
    await client.put_all(client.round())
    assert refused(await client.commit()) == (409, "move-root-mismatch")
    wrong = await client.close(root="0" * 64)
    assert refused(wrong) == (409, "move-root-mismatch")
    missing = await client.close(last=client.filler.number + 1)
    assert refused(missing) == (409, "move-round-incomplete")
    assert (await client.close()).status == 200
    assert (await client.close()).status == 200
    old = client.session
    await client.send()
    late = await client.ask(
        "POST",
        "/commit",
        params={"session": old},
        json={"round": client.filler.round, "root": client.root_digest, "running": False},
    )
    assert refused(late) == (409, "move-resume-needed")
    closed = {"round": client.filler.round, "root": client.root_digest}
    (source / "more").write_bytes(b"of another round")
    await client.put_all(client.round())
    assert refused(await client.commit(**closed)) == (409, "move-root-mismatch")
    await client.send()
    node.waits["create"] = waiting = Deferred[None]()
    assert (await client.commit()).status == 202
    assert (await client.commit()).status == 202
    second = await client.commit(running=True)
    assert refused(second) == (409, "move-committed")
    await node.reaches("create")
    # Its answer may have been lost: the same commit again is no other one.
    assert (await client.commit()).status == 202
    assert refused(await client.resume()) == (409, "move-committed")
    waiting.callback(None)
    assert (await client.outcome())["outcome"] == "success"


async def test_numbers_and_digests_in_requests_are_checked(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    for path in ("/batches/x", "/batches/-1", "/batches/" + "9" * 30):
        answer = await client.ask("PUT", path, data=b"", params=client.in_session())
        assert refused(answer) == (400, "move-request-invalid")
    for page in ("0", "99", "x"):
        answer = await client.ask("GET", "/tree", params=client.in_session(page=page))
        assert answer.status in (400, 409)
    answer = await client.close(root="xyz")
    assert refused(answer) == (400, "move-request-invalid")
    answer = await client.ask(
        "PATCH", "/attachments/install.log", params=client.in_session(offset="x"), data=b""
    )
    assert refused(answer) == (400, "move-request-invalid")


@pytest.mark.promise(
    "full-queue-refuses-early", "move-requests-are-bounded", "slots-are-shared-fairly"
)
async def test_a_slow_source_has_its_streams_and_leaves_slots_to_other_servers(
    node: MovingNode, source: Path
) -> None:
    client = await node.client(source).open()
    goes_on: list[Event] = []
    sent: list[Deferred[Answer]] = []

    def send(number: int) -> None:
        event = Event()

        def slow() -> Iterator[bytes]:
            yield encoded(1, client.held["round"], whole(), data=b"data")[:60]
            event.wait(30)

        goes_on.append(event)
        sent.append(Deferred.fromCoroutine(client.put_bytes(number, slow())))

    inbox = node.inbox
    send(1)
    send(2)
    try:
        await until(lambda: len(inbox._bodies) == 2)
        for _ in range(5):
            answer = await client.put_bytes(3, b"x")
            assert refused(answer) == (503, "move-busy")
            assert "2 requests of the move are under way" in answer.json["detail"]
        assert answer.headers["Retry-After"] == "5"
        # The connection of the first one may be half open.
        (earlier,) = [body for name, body in inbox._bodies.items() if name == "batch 2"]
        send(2)
        await until(lambda: earlier.over.called)
        goes_on[1].set()
        assert refused(await sent[1]) == (409, "move-resume-needed")
        node.panel.known[OTHER] = Configuration(Settings(OTHER))
        await node.receiver.open(UploadTransfer, OTHER).run(Source(), SINGLE)
    finally:
        for event in goes_on:
            event.set()
    await gatherResults(sent)


async def send_names(client: MoveClient, number: int, first: int = 0) -> Answer:
    """Send 80 empty files whose names take 600 KiB; before the first batch their directories."""
    in_round = client.held["round"]
    if number == 1:
        directories = [DirectoryFrame(path, 0o755, 1) for path in DEEP]
        answer = await client.put_bytes(1, encoded(1, in_round, *directories))
        assert answer.status == 200
        number = 2
    frames = [whole(b"%b/%d" % (DEEP[-1], first + n), b"") for n in range(80)]
    body = encoded(number, in_round, *frames, needs=1)
    return await client.put_bytes(number, b"".join(deflated([body])), headers=ZSTD)


def ledger(node: MovingNode) -> os.stat_result:
    inbox = node.inbox
    return Path(inbox.copy._paths.ledger).stat()


@pytest.mark.promise("move-requests-are-bounded")
async def test_the_same_files_again_and_again_do_not_grow_the_ledger(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_copy, "LEDGER_GROWS", 1 << 20)
    client = await node.client(source).open()
    answer, number, resumed = await send_names(client, 1), 2, 0
    for _ in range(12):
        assert ledger(node).st_size < 4 << 20
        if answer.status == 200:
            number += 1
        else:
            assert refused(answer) == (409, "move-resume-needed")
            assert (await client.resume()).status == 200
            number, resumed = client.held["next"], resumed + 1
            # it is written anew, with each file once
            assert ledger(node).st_size < 1 << 20
        answer = await send_names(client, number)
    assert resumed > 1


@pytest.mark.promise("move-requests-are-bounded")
async def test_names_may_not_take_more_than_the_files(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_copy, "LEDGER_GROWS", 1 << 20)
    client = await node.client(source).open()
    answer, number = await send_names(client, 1), 2
    while answer.status == 200:
        number += 1
        assert ledger(node).st_size < 4 << 20
        answer = await send_names(client, number, 80 * number)
    assert refused(answer) == (409, "move-resume-needed")
    answer = await client.resume()
    assert refused(answer) == (400, "disk-limit-exceeded")
    assert "the names of" in answer.json["detail"]


async def test_the_ledger_is_written_again_only_when_much_of_it_is_obsolete(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_copy, "LEDGER_GROWS", 64 << 10)
    client, written = await node.client(source).open(), set()
    files = [source / f"{number:0200}" for number in range(500)]
    for file in files:
        file.write_bytes(b"data")
    await client.put_all(client.round())
    first = ledger(node).st_ino
    assert (await client.close()).status == 200
    # all names are new in the first round: they would take as much in a new ledger
    assert ledger(node).st_ino == first
    assert ledger(node).st_size > 64 << 10
    for changed in range(3):
        for file in files:
            file.write_bytes(b"data %d" % changed)
        await client.put_all(client.round())
        assert (await client.close()).status == 200
        written.add(ledger(node).st_ino)
    assert len(written) > 1


@pytest.mark.promise("move-requests-are-bounded")
async def test_only_some_questions_are_waited_with(node: MovingNode, source: Path) -> None:
    client = await node.client(source).open()
    tag = (await client.status()).json["tag"]
    transfer: Any = node.receiver.find(UUID)
    # They are waited with for 30 s, which the reactor looks at 20 times a second each.
    transfer.waiting = moves.MOST_WAITING
    assert (await client.status(wait=30, since=tag)).json["tag"] == tag
    transfer.waiting = moves.MOST_WAITING - 1
    asked = Deferred.fromCoroutine(client.status(wait=30, since=tag))
    await until(lambda: transfer.waiting == moves.MOST_WAITING)
    assert (await client.status(wait=30, since=tag)).json["tag"] == tag
    assert not asked.called
    await client.put_all(client.round())
    assert (await client.resume()).status == 200
    assert (await asked).json["tag"] != tag
    assert transfer.waiting == moves.MOST_WAITING - 1
