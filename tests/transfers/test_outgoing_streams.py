"""A server that is sent in several requests: all of them are taken, or it stays."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.support.archives import odd_tree, seen
from tests.support.attributes import ACCESS, acl
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import Sender, read_form, sending
from wingsd.archive.extract import SharedTreeWriter
from wingsd.archive.partition import split
from wingsd.archive.quota import DEFAULT
from wingsd.errors import StorageError
from wingsd.transfers.outgoing.source import SentStream
from wingsd.transfers.upload_form import Checksums

pytestmark = pytest.mark.root

JOINING = "symlinks, hard-links, streams"
FIRST = ""


@attrs.define
class Taken:
    """A request as it came: what it says of the streams, and what was in it."""

    count: str | None
    archive: bytes
    extras: dict[Any, bytes]
    checksums: Checksums


class Streams(Resource):
    """A node that takes several requests, and notes in which order their ends came."""

    isLeaf = True

    def __init__(self, features: str, others: int) -> None:
        super().__init__()
        self.features = features
        self.others = others
        self.taken: dict[str, Taken] = {}
        self.ends: list[str] = []
        #: Which of them is refused; and whether those beside the first are answered at once.
        self.refused: str | None = None
        self.answers_each = not features
        self._waiting: list[Any] = []

    def render_OPTIONS(self, request: Any) -> bytes:
        request.setResponseCode(204)
        if self.features:
            request.setHeader("Transfer-Features", self.features)
        return b""

    def render_POST(self, request: Any) -> int:
        assert request.getHeader("Authorization") == "Bearer token"
        number = request.getHeader("Multiplex-Stream") or FIRST
        kind, data = request.getHeader("Content-Type"), request.content.read()
        extras, checksums = read_form(kind, data)
        archive = extras.pop(None)
        assert number not in self.taken
        self.taken[number] = Taken(
            request.getHeader("Multiplex-Stream-Count"), archive, extras, checksums
        )
        self.ends.append(number)
        if number == self.refused:
            request.setResponseCode(400)
            request.write(b'{"error": "this one is not wanted"}')
            request.finish()
        elif self.answers_each:
            request.finish()
        else:
            self._waiting.append(request)
            if len(self._waiting) == self.others + 1:
                self.answer()
        return NOT_DONE_YET

    def answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.finish()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    for made in sending(tmp_path):
        (made.tree / "odd").mkdir()
        odd_tree(made.tree / "odd")
        yield made


def use_streams(sender: Sender, features: str, others: int, slots: int = 8) -> Streams:
    """Have a destination that takes streams, and slots for them here."""
    streams = Streams(features, others)
    sender._site.resource = streams
    sender.send_with(slots=DeferredSemaphore(slots), max_streams=slots - 1)
    return streams


def joined(streams: Streams, into: Path) -> Any:
    """Return the tree that all archives make together."""
    into.mkdir()
    with closing(SharedTreeWriter(str(into), None, DEFAULT, len(streams.taken))) as tree:
        for taken in streams.taken.values():
            done = tree.extract(iter([taken.archive]), lambda note: None)
            assert done.sha256 == taken.checksums.archive
        tree.finish()
    return seen(into, owner=False)


@pytest.mark.parametrize("others", [1, 7])
async def test_all_streams_have_the_server(sender: Sender, tmp_path: Path, others: int) -> None:
    streams = use_streams(sender, JOINING, others)
    await sender.start(streams=others)
    assert sender.states == ["pending", "processing", "success", "completed"]
    numbers = [str(number) for number in range(others)]
    assert sorted(streams.taken) == [FIRST, *numbers]
    assert streams.taken[FIRST].count == str(others)
    assert [streams.taken[number].count for number in numbers] == [None] * others
    assert joined(streams, tmp_path / "out") == seen(sender.tree, owner=False)
    assert sender.sender.parts.slots.tokens == 8
    sizes = [len(taken.archive) for taken in streams.taken.values()]
    assert sender.heard.over[0][2] is not None
    assert sender.heard.over[0][2] >= sum(sizes)


@pytest.mark.promise("streams-succeed-together")
async def test_the_first_stream_ends_last_to_a_node_that_answers_each(sender: Sender) -> None:
    streams = use_streams(sender, "", 4)
    await sender.start(streams=4)
    assert sender.states[-1] == "completed"
    assert streams.ends[-1] == FIRST
    assert sorted(streams.ends[:-1]) == ["0", "1", "2", "3"]


@pytest.mark.promise("streams-succeed-together")
@pytest.mark.parametrize(
    ("features", "refused"), [("", FIRST), ("", "2"), (JOINING, FIRST), (JOINING, "0")]
)
async def test_a_refused_stream_ends_all(sender: Sender, features: str, refused: str) -> None:
    streams = use_streams(sender, features, 3)
    streams.refused = refused
    await sender.start(streams=3)
    assert sender.said("this one is not wanted")
    assert sender.states[-2:] == ["failed", "failure"]
    assert sender.panel.calls.count("failure") == 1
    assert sender.server.hold == ""
    assert sender.sender.parts.slots.tokens == 8
    if not features and refused != FIRST:
        assert FIRST not in streams.taken


@pytest.mark.promise("streams-succeed-together")
async def test_a_bad_file_ends_all(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SentStream.write

    def fail_for_one(stream: SentStream, **ends: bool) -> Any:
        if stream._source == parts[1]:
            raise StorageError.reading("world: Input/output error")
        return write(stream, **ends)

    monkeypatch.setattr(SentStream, "write", fail_for_one)
    streams = use_streams(sender, JOINING, 2)
    parts = split(str(sender.tree), 3)
    await sender.start(streams=2)
    assert sender.said("Input/output error")
    assert sender.states[-2:] == ["failed", "failure"]
    assert sender.panel.calls.count("failure") == 1
    assert "0" not in streams.taken


async def test_it_can_be_cancelled_while_the_answers_are_waited_for(sender: Sender) -> None:
    streams = use_streams(sender, JOINING, 99)
    over = sender.start(streams=3)
    await until(lambda: len(streams.taken) >= 4)
    assert sender.transfers._open[UUID].is_sent
    sender.transfers.cancel(UUID)
    await over
    assert sender.said("the transfer was cancelled")
    # All was sent, so the Panel says whose it is.
    assert sender.panel.calls == ["owns", "failure"]


@pytest.mark.parametrize(
    ("features", "asked", "sent", "told"),
    [
        (JOINING, 9, 7, "9 streams are asked for beside the first: this node sends 7"),
        ("", 9, 7, "9 streams are asked for beside the first: this node sends 7"),
        ("symlinks, hard-links", 3, 0, "the destination takes none"),
        (JOINING, 0, 0, ""),
    ],
)
async def test_as_many_are_sent_as_both_nodes_can(
    sender: Sender, features: str, asked: int, sent: int, told: str
) -> None:
    streams = use_streams(sender, features, sent)
    await sender.start(streams=asked)
    assert len(streams.taken) == sent + 1
    assert streams.taken[FIRST].count == (str(sent) if sent else None)
    assert sender.said(told) or not told


async def test_no_name_is_sent_twice_without_links(sender: Sender) -> None:
    streams = use_streams(sender, "", 5)
    await sender.start(streams=5)
    names: list[str] = []
    for taken in streams.taken.values():
        with tarfile.open(fileobj=io.BytesIO(taken.archive)) as archive:
            names += [member.name for member in archive]
    assert len(names) == len(set(names))
    assert {".", "odd/z-hard", "odd/a/plain", "link"} <= set(names)


async def test_two_servers_take_turns(sender: Sender) -> None:
    # Whoever sends holds all places that it needs.
    streams = use_streams(sender, JOINING, 3, slots=4)
    held: Deferred[Any] = sender.sender.parts.slots.acquire()
    over = sender.start(streams=3)
    await until(lambda: sender.transfers.waiting == 1)
    assert streams.taken == {}
    (await held).release()
    await over
    assert len(streams.taken) == 4


def with_attributes(sender: Sender) -> None:
    for name in ("a", "b"):
        path = sender.tree / name
        path.write_bytes(b"")
        os.setxattr(path, "user.note", b"1")
        os.setxattr(path, ACCESS, acl(users={33: 7}, group=0, mask=7))


@pytest.mark.parametrize("others", [0, 2])
async def test_attributes_go_to_nodes_that_keep_them(
    sender: Sender, tmp_path: Path, others: int
) -> None:
    with_attributes(sender)
    streams = use_streams(sender, f"{JOINING}, attributes", others)

    await sender.start(streams=others)

    joined(streams, tmp_path / "out")
    for name in ("a", "b"):
        path = tmp_path / "out" / name
        assert os.getxattr(path, "user.note") == b"1"
        assert os.getxattr(path, ACCESS) == acl(users={33: 7}, group=0, mask=7)
    assert not sender.said("extended attributes")


@pytest.mark.promise("attributes-are-moved")
@pytest.mark.parametrize(("features", "others"), [(JOINING, 2), ("", 0)])
async def test_one_line_counts_what_other_nodes_do_not_keep(
    sender: Sender, tmp_path: Path, features: str, others: int
) -> None:
    with_attributes(sender)
    streams = use_streams(sender, features, others)

    await sender.start(streams=others)

    joined(streams, tmp_path / "out")
    for name in ("a", "b"):
        path = tmp_path / "out" / name
        assert os.listxattr(path) == []
        assert path.stat().st_mode & 0o777 == 0o600  # not the mask
    assert [line for line in sender.lines if "extended attributes" in line] == [
        line for line in sender.lines if "2 files and directories without" in line
    ]
    assert sender.said("2 files and directories without")
