"""What takes a destination long is answered before a proxy gives up, and asked for again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.move_client import Answer, MoveClient
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.transfers.incoming.moving_node import MovingNode
from wingsd.transfers.incoming.moves import inbox, partial_copy
from wingsd.transfers.incoming.moves.inbox import Attachments
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.transfers.storage.staging import Staging


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
    assert (await client.commit()).status == 202
    assert (await client.outcome())["outcome"] == "success"


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


async def test_a_request_is_told_the_session_that_it_has_begun_and_no_later_one(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = node.client(source)
    await client.begin()
    looking, going_on = threading.Event(), threading.Event()
    here = Attachments.here

    def slow(attachments: Attachments) -> int:
        if not looking.is_set():
            looking.set()
            going_on.wait(30)
        return here(attachments)

    monkeypatch.setattr(Attachments, "here", slow)
    first = Deferred.fromCoroutine(client.ask("POST", "/resume", json={}))
    await until(looking.is_set)
    second = await client.ask("POST", "/resume", json={})
    going_on.set()
    sessions = [(await first).json["session"], second.json["session"]]
    assert all(sessions)
    assert sessions[0] != sessions[1]
    receiving: Any = node.receiver.find(UUID)
    assert receiving.inbox.session == sessions[1]


async def test_a_round_is_closed_once_however_often_that_is_asked(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = node.client(source)
    await client.begin()
    await client.resume()
    await client.put_all(client.round())
    work.slow("close_round")
    assert is_busy(await client.close())
    assert is_busy(await client.close())
    work.finish()
    await finish(client)
    assert work.done == 1


async def test_a_batch_that_has_arrived_need_not_be_waited_for(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = node.client(source)
    await client.begin()
    await client.resume()
    shape, *rest = client.round()
    work.slow("receive")
    assert is_busy(await client.put(shape))
    work.finish()
    assert (await client.put(shape)).status == 200
    await client.put_all(rest)
    await finish(client)


@pytest.mark.promise("move-passes-strict-proxies")
async def test_the_end_of_a_backup_is_worked_for_once_however_often_it_comes(
    node: MovingNode, source: Path, work: SlowWork
) -> None:
    client = node.client(source)
    await client.begin(log=5)
    await client.send()
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


async def test_the_disk_is_flushed_while_the_root_is_made(
    node: MovingNode, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_copy, "CHECKPOINT_EVERY", 3600)
    sync, prepare, made = Staging.sync, PartialCopy.prepare_root, threading.Event()
    closing, met = list[bool](), list[bool]()
    client = node.client(source)

    def waiting(staging: Staging, server: str) -> None:
        if closing:
            met.append(made.wait(30))
        sync(staging, server)

    def preparing(copy: PartialCopy) -> None:
        prepare(copy)
        made.set()

    monkeypatch.setattr(Staging, "sync", waiting)
    monkeypatch.setattr(PartialCopy, "prepare_root", preparing)
    await client.begin()
    await client.resume()
    await client.put_all(client.round())
    closing.append(True)
    assert (await client.close()).status == 200
    assert met[0]
    assert (await client.commit()).status == 202
    assert (await client.outcome())["outcome"] == "success"
