"""What the daemon and the process that parses send each other, and what the daemon refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wingsd.egg_files.changes import Change, NotDone, Pattern
from wingsd.egg_files.child import MAX_HEADER, RewriteAnswer, RewriteRequest, Rewritten

REQUEST = RewriteRequest("file", b"old\n", [Change("a", "b"), Change("c", "d")])
LIMIT = 10
DONE = {"cpu_seconds": 0.5, "changed": True, "failures": []}


def test_a_request_arrives_as_it_was_sent() -> None:
    changes = [
        Change("a.b", 'text "\n\ud800é'),
        Change("c", True),
        Change("d", 2**63),
        Change("e", 1.5, if_value="1"),
        Change("f", "$1", pattern=Pattern("^(a)$")),
    ]
    sent = RewriteRequest("yaml", b"\n\x00\xff\n{}\n", changes)
    read = RewriteRequest.decode(sent.encode())
    assert (read.parser, read.data, read.changes[:-1]) == ("yaml", sent.data, changes[:-1])
    assert [type(change.value) for change in read.changes] == [str, bool, int, float, str]
    last = read.changes[-1]
    assert (last.new_value("a"), last.new_value("b")) == ("a", None)


@pytest.mark.parametrize(
    "answer",
    [
        RewriteAnswer(0.5, Rewritten(b"new\n\n", ["one", "two"])),
        RewriteAnswer(0.5, Rewritten(b"", [])),
        RewriteAnswer(0.5, Rewritten(b"old\n", ["one"])),
        RewriteAnswer(0.5, refused="why\n\ud800"),
    ],
)
def test_an_answer_arrives_as_it_was_sent(answer: RewriteAnswer) -> None:
    assert RewriteAnswer.decode(answer.encode(REQUEST), REQUEST, LIMIT) == answer


def test_unchanged_bytes_are_not_sent_back() -> None:
    assert b"old" not in RewriteAnswer(0.5, Rewritten(b"old\n", [])).encode(REQUEST)


def header(**different: Any) -> bytes:
    return json.dumps(DONE | different).encode()


@pytest.mark.promise("egg-files-are-parsed-apart")
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\n",
        b"Traceback (most recent call last):\n",
        b"[" * MAX_HEADER,
        b"9" * 5000 + b"\n",
        b" " * MAX_HEADER + header(),
        b"[]\n",
        b'{"cpu_seconds": 0.5}\n',
        header(cpu_seconds="0.5") + b"\n",
        header(changed=1) + b"\n",
        header(changed=False) + b"\nnew",
        header(failures="one") + b"\n",
        header(failures=["one", 2]) + b"\n",
        header(failures=["more", "than", "changes"]) + b"\n",
        header(refused="and done") + b"\n",
        header(more=1) + b"\n",
        header() + b"\n" + b"x" * (LIMIT + 1),
        b'{"cpu_seconds": 0.5, "refused": "why"}\nnew',
        b'{"cpu_seconds": 0.5, "refused": ["why"]}\n',
    ],
)
def test_what_is_not_an_answer_is_refused(message: bytes) -> None:
    with pytest.raises(NotDone, match="sent an invalid answer"):
        RewriteAnswer.decode(message, REQUEST, LIMIT)
