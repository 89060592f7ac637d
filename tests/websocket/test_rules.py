"""Messages, and what happens to those for a slow browser."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import BadRequest
from wingsd.websocket.messages import Message
from wingsd.websocket.resource import ALL_MAX, LINES_MAX, SendBuffer, SendDecision


def encoded(**message: object) -> bytes:
    return json.dumps(message).encode()


@given(st.text(), st.lists(st.text()))
def test_a_message_is_read_as_it_was_written(event: str, args: list[str]) -> None:
    message = Message(event, tuple(args))
    assert Message.decode(message.encode()) == message
    assert Message.decode(message.encode(binary=True), binary=True) == message


def test_what_is_no_unicode_is_sent_all_the_same() -> None:
    message = Message("x", ("a\udcffb",))
    assert json.loads(message.encode())["args"] == ["a?b"]
    assert msgpack.unpackb(message.encode(binary=True)) == ["x", ["a?b"]]


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "not MessagePack"),
        (b"\xc1", "not MessagePack"),
        (b"\x92\xa1x\xdd\xff\xff\xff\xff", "not MessagePack"),
        (b"\x91" * 4000, "not MessagePack"),
        (msgpack.packb({"event": "x", "args": []}), "not a list of an event"),
        (msgpack.packb(["x"]), "not a list of an event"),
        (msgpack.packb([b"x", []]), "not MessagePack"),
        (msgpack.packb(["x", "y"]), '"args"'),
        (msgpack.packb(["x", [5]]), '"args"'),
    ],
)
def test_an_invalid_binary_message_is_explained(packed: bytes, why: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Message.decode(packed, binary=True)
    assert why in caught.value.detail


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 4096, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"event": "x"}'.decode().encode("utf-16"), "not JSON"),
        (b"[]", '"event"'),
        (encoded(args=[]), '"event"'),
        (encoded(event=5), '"event"'),
        (encoded(event="x", args="y"), '"args"'),
        (encoded(event="x", args=[5]), '"args"'),
    ],
)
def test_an_invalid_message_is_explained(payload: bytes, why: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Message.decode(payload)
    assert why in caught.value.detail


def test_lines_for_one_that_does_not_read_wait_up_to_a_mark_and_then_are_dropped() -> None:
    outbox = SendBuffer()
    outbox.pause()
    line = 1024
    fates = [outbox.decide(line, droppable=True, line=True) for _ in range(LINES_MAX // line + 3)]
    assert fates == [SendDecision.SEND] * (LINES_MAX // line) + [SendDecision.DROP] * 3
    assert outbox.decide(1, droppable=True, line=True) is SendDecision.DROP
    assert outbox.decide(LINES_MAX, droppable=True) is SendDecision.DROP
    assert outbox.resume() == 4
    assert outbox.decide(line, droppable=True, line=True) is SendDecision.SEND


def test_what_must_not_be_dropped_waits_beyond_that_mark_but_not_without_end() -> None:
    outbox = SendBuffer()
    outbox.pause()
    outbox.decide(LINES_MAX, droppable=True)
    room = ALL_MAX - LINES_MAX
    assert outbox.decide(room, droppable=False) is SendDecision.SEND
    assert outbox.decide(1, droppable=False) is SendDecision.CLOSE
    assert outbox.waiting == ALL_MAX
