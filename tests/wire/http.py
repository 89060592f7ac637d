"""The requests and answers in the bytes of connections, as they are: nothing is left out.

It accepts what a strict parser refuses, since tests send that, too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress

import attrs

__all__ = ["Exchange", "Message", "Stream", "exchanges"]

#: One direction of a connection: the bytes of each call, with when they came.
Stream = Sequence[tuple[int, bytes]]

_HEAD_END = b"\r\n\r\n"
_FIRST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]|HTTP/1\.[01] \d{3}\b.*")
#: Bytes of what is not HTTP that are shown.
_SHOWN = 64


@attrs.frozen
class Message:
    """A request or an answer; `begin` and `end` are when its first and last byte came."""

    line: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_whole: bool = True
    begin: int = 0
    end: int = 0

    @property
    def status(self) -> str:
        """Of an answer; of a request its target."""
        return self.line.split(" ")[1]

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


@attrs.frozen
class Exchange:
    """A request and its answers, of which all but the last are informational."""

    request: Message
    answers: tuple[Message, ...]

    @property
    def is_refused(self) -> bool:
        """True if the answer is an error."""
        return bool(self.answers) and self.answers[-1].status >= "400"

    @property
    def end(self) -> int:
        """When the last byte of both came."""
        return max(each.end for each in (self.request, *self.answers))


def exchanges(requests: Stream, answers: Stream) -> Iterator[Exchange]:
    """Yield the exchanges of a connection in their order."""
    asked = _messages(requests, ())
    answered = _messages(answers, [each.line.partition(" ")[0] for each in asked])
    for request in asked:
        own = []
        while answered:
            own.append(answered.pop(0))
            if not own[-1].status.startswith("1"):
                break
        yield Exchange(request, tuple(own))


def _messages(stream: Stream, methods: Sequence[str]) -> list[Message]:
    """Return the messages of one direction; `methods` are those of the requests to answers."""
    data = b"".join(piece for _, piece in stream)
    ends, total = [], 0
    for _, piece in stream:
        total += len(piece)
        ends.append(total)

    def when(position: int) -> int:
        return stream[min(bisect_right(ends, position), len(stream) - 1)][0]

    found: list[Message] = []
    pending = [*methods]
    at = 0
    while at < len(data):
        head_end = data.find(_HEAD_END, at)
        first, *lines = data[at : max(head_end, at)].split(b"\r\n")
        if not _FIRST_LINE.fullmatch(first):
            shown = f"(not HTTP) {data[at : at + _SHOWN]!r}"
            found.append(Message(shown, begin=when(at), end=when(len(data) - 1)))
            break
        headers = tuple(_header(line) for line in lines)
        status = first.split(b" ")[1].decode() if first.startswith(b"HTTP/") else ""
        method = pending[0] if pending else ""
        if status and not status.startswith("1"):
            pending = pending[1:]
        start = head_end + len(_HEAD_END)
        if method == "HEAD" or status.startswith("1") or status in ("204", "304"):
            body, end, whole = b"", start, True
        else:
            body, end, whole = _body(data, start, dict(headers), is_answer=bool(status))
        line = first.decode("latin-1")
        found.append(Message(line, headers, body, whole, when(at), when(end - 1)))
        at = end
    return found


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("latin-1").partition(":")
    return name, value.strip()


def _body(
    data: bytes, start: int, headers: dict[str, str], *, is_answer: bool
) -> tuple[bytes, int, bool]:
    """Return a body, where it ends, and whether it is whole."""
    fields = {name.lower(): value for name, value in headers.items()}
    if "chunked" in fields.get("transfer-encoding", ""):
        return _unchunked(data, start)
    with suppress(KeyError, ValueError):
        end = start + int(fields["content-length"])
        return data[start:end], min(end, len(data)), end <= len(data)
    end = len(data) if is_answer else start
    return data[start:end], end, True


def _unchunked(data: bytes, at: int) -> tuple[bytes, int, bool]:
    body: list[bytes] = []
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].partition(b";")[0], 16)
        except ValueError:
            break
        at = end + 2
        if not size:
            return b"".join(body), min(at + 2, len(data)), True
        if at + size > len(data):
            break
        body.append(data[at : at + size])
        at += size + 2
    return b"".join(body), len(data), False
