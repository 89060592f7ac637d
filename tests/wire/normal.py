"""A transcript of exchanges that is the same in each run of a test.

What differs by chance is named: identifiers, keys and addresses by numbers in the order in which
they come first, so that it shows where two are the same; times, and numbers of batches, which
depend on how fast a line seems, not even that. Bodies are taken apart: forms into parts, archives
into members, batches into frames. Bodies that hold times are only counted.

Exchanges are in the order in which their requests began, but for what has none:
- those that were under way at once are sorted;
- of questions for news of a move that were asked again and again there is the last, without
  answers that something is on its way;
- of what failed in the same way again and again there is one;
- what was not answered, since a line broke or the test was over, is left out where anything of
  its kind was answered, or it did not end itself;
- the contents of a round, which are cut into batches by how fast they go, are one entry;
- of a request that was refused a large body may have been sent in part, and its connection may
  have been closed.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256

import attrs
import lz4.frame
import pyzstd

from tests.wire.http import Exchange, Message
from wingsd.errors import WingsdError
from wingsd.moves.batch import HEAD, BatchKind, Index, decode_index, frame_bytes, index_length

__all__ = ["transcript"]

#: Bytes of a text at most.
_TEXT = 1 << 16
#: Bytes of a body that is large, so that a peer may refuse it before all were sent.
_LARGE = 4096
#: What is counted in a move, by how often it broke off.
_COUNTED = re.compile(
    r"(?<=session=)s\d+|(?<=open-)\d+|(?<=/rounds/)\d+|(?<=round )\d+|(?<=page=)\d+"
    r"|(?<=\"session\": \")s\d+|(?<=d\": )\d+|(?<=s\": )\d+|\d+(?= bytes with times)"
    r"|(?<=Content-Length: )\d{4,}"
)
_NEWS = re.compile(r"GET \S*/move/\w+(\?\S*)? ")
_CLOSE = "  Connection: close"
_DATE = r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(?:Z|\+00:00)?|1[5-9]\d{8}(?:\d{9}|\.\d+)?"
#: Fields with numbers of batches.
_BATCH = "|".join(rf'(?<="{name}": )' for name in ("durable", "received", "next", "shape", "last"))
#: How far a commit is when a question comes.
_STEP = r'"step": "\w+", "text": "[^"]*", "tag": "\w*", "session": (?:null|"\w+")'
#: What differs from run to run.
_VARIABLE = re.compile(
    rf'(?P<step>(?<="phase": "commit", ){_STEP})|'
    rf"(?P<id>(?<=X-Request-Id: )[0-9a-f-]{{36}})|(?P<date>\b{_DATE})|(?P<time>\b(?:{_TIME})\b)"
    rf"|(?P<batch>(?:(?<=/batches/)|(?<=batch )|(?<=needs )|{_BATCH})\d+)"
    r"|(?P<uuid>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
    r"|(?P<jwt>\beyJ[\w-]+\.[\w-]+\.[\w-]+)|(?P<hex>\b[0-9a-f]{16,}\b)"
    r"|(?P<port>(?<=127\.0\.0\.1:)\d+|(?<=localhost:)\d+)"
    r"|(?P<free>\d+(?= MiB are free))"
    r"|(?P<directory>/tmp/pytest-of-[\w-]+/pytest-\d+/(?:popen-gw\d+/)?[\w.-]+)"
)
#: Kinds of which two can be the same on purpose.
_NUMBERED = ("uuid", "jwt", "hex", "port", "directory")


@attrs.define
class _Entry:
    """The text of an exchange, without the contents of a round that it brings."""

    begin: int
    end: int
    text: str = ""
    #: The request's first line without what differs.
    kind: str = ""
    is_part: bool = False
    is_answered: bool = False
    is_refused: bool = False
    #: The path of a question for news.
    news: str = ""
    #: The round of the contents, and these.
    round: str = ""
    contents: list[str] = attrs.Factory(list)

    @property
    def masked(self) -> str:
        return _masked(self.text)


def transcript(exchanges: Iterable[Exchange], *, in_order: bool = True) -> str:
    """Return the transcript of a test's exchanges, which are in any order.

    Where their order is free there are the kinds of those that were answered, sorted, but for
    questions for news, and of all rounds together the contents.
    """
    entries = [_entry(each, in_order=in_order) for each in exchanges]
    answered = {each.kind for each in entries if each.is_answered}
    answered |= {""} if in_order else {each.kind for each in entries}
    shown = [
        each
        for each in entries
        if each.is_answered or not (each.is_part or each.news or each.kind in answered)
    ]
    shown = [*_rounds(sorted(shown, key=lambda each: each.begin))]
    if in_order:
        texts = _once(each for group in _groups(shown) for each in group)
        return _named("".join(f"{text}\n\n" for text in texts))
    kinds = {_COUNTED.sub("<count>", each.masked) for each in shown if not each.news}
    return "".join(f"{text}\n\n" for text in sorted(kinds))


def _entry(exchange: Exchange, *, in_order: bool) -> _Entry:
    request, answers = exchange.request, exchange.answers
    path = request.line.partition("?")[0]
    entry = _Entry(request.begin, exchange.end)
    entry.news = path if _NEWS.match(request.line) else ""
    entry.kind = _COUNTED.sub("", _masked(request.line))
    entry.is_part, entry.is_refused = not request.is_whole, exchange.is_refused
    entry.is_answered = bool(answers) and not (entry.news and _is_on_its_way(answers[-1].body))
    batch = None if exchange.is_refused else _batch(request)
    if exchange.is_refused and (not request.is_whole or len(request.body) > _LARGE):
        lines = [*_head(request, is_known=False), "  (a part of its body, or all)"]
    elif batch is not None and batch[0].kind is BatchKind.DATA:
        index, data = batch
        entry.round = f"{path.partition('/batches/')[0]} {index.round if in_order else ''}"
        entry.contents = [*_frames(index, data)] if answers else []
        lines = [line.removesuffix("+zstd") for line in _head(request)]
        lines += [f"  | batch {index.number} of contents, needs {index.needs}"]
    else:
        lines = [*_lines(request)]
    before = ""
    for line in [each for answer in answers for each in _answer(request, answer)] or ["no answer"]:
        if line != before and not (exchange.is_refused and line == _CLOSE):
            lines.append(line)
        before = line
    entry.text = "\n".join(lines)
    return entry


def _is_on_its_way(news: bytes) -> bool:
    """Return whether an answer to a question for news is one that may as well not be seen."""
    return b'"phase": "commit"' in news or (
        b'"phase": "open"' in news and b'"state": "ready"' not in news
    )


def _rounds(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield entries, with those that bring contents of a round in the first one's place."""
    rounds: dict[str, list[_Entry]] = {}
    kept = []
    for each in entries:
        known = rounds.setdefault(each.round or str(id(each)), [])
        if not known:
            kept.append(known)
        known.append(each)
    for parts in kept:
        if not parts[0].round:
            yield parts[0]
            continue
        requests = {each.masked: each.text for each in reversed(parts)}
        frames = sorted({line for each in parts for line in each.contents})
        lines = [text for _, text in sorted(requests.items())]
        text = "\n".join([*lines, *(f"  | {line}" for line in frames)])
        yield _Entry(parts[0].begin, parts[0].end, text)


def _groups(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    """Yield what was under way at once, sorted, and of questions for news the last."""
    group: list[_Entry] = []
    news: list[_Entry] = []
    for each in entries:
        if news and news[0].news != each.news:
            yield news
            news = []
        if group and (each.news or each.begin > max(one.end for one in group)):
            yield sorted(group, key=lambda one: one.masked)
            group = []
        if each.news:
            news = [each]
        else:
            group.append(each)
    yield sorted(group, key=lambda one: one.masked)
    yield news


def _once(entries: Iterable[_Entry]) -> Iterator[str]:
    """Yield the texts of entries; of what has failed again and again the first."""
    before = ""
    for each in entries:
        if (each.is_answered and not each.is_refused) or each.masked != before:
            yield each.text
        before = each.masked


def _masked(text: str) -> str:
    return _VARIABLE.sub(lambda found: f"<{found.lastgroup}>", text)


def _named(text: str) -> str:
    names: dict[str, str] = {}
    counts: dict[str, int] = {}

    def name(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        if kind not in _NUMBERED:
            return f"<{kind}>"
        if found[0] not in names:
            counts[kind] = counts.get(kind, 0) + 1
            names[found[0]] = f"<{kind} {counts[kind]}>"
        return names[found[0]]

    return _VARIABLE.sub(name, text)


# Messages


def _lines(message: Message) -> Iterator[str]:
    yield from _head(message)
    if not message.is_whole:
        yield "  (it ends before its end)"
    elif message.body:
        described = _described(message.body, message.header("content-type"))
        yield from (f"  | {line}" for line in described)


def _answer(request: Message, answer: Message) -> Iterator[str]:
    if "/tree?" in request.line and answer.is_whole and answer.status == "200":
        yield from _head(answer)
        yield f"  | {len(answer.body)} bytes with times"
    else:
        yield from _lines(answer)


def _head(message: Message, *, is_known: bool = True) -> Iterator[str]:
    """Yield the first line and the headers; of a body that `is_known` not how long it is."""
    news = _NEWS.match(message.line)
    yield f"{message.line.partition('?')[0].split(' ')[1]} for news" if news else message.line
    for name, value in message.headers:
        is_right = name.lower() == "content-length" and value == str(len(message.body))
        yield f"  {name}: {'right' if is_right and is_known and message.body else value}"


def _described(body: bytes, kind: str) -> Iterator[str]:
    if boundary := re.search(r'multipart/form-data; *boundary="?([\w-]+)', kind):
        for part in body.split(b"--" + boundary[1].encode())[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            yield from head.decode("latin-1").strip().splitlines()
            yield from (f"  {line}" for line in _described(content.removesuffix(b"\r\n"), ""))
        return
    body = _decompressed(body)
    with suppress(WingsdError):
        index, data = _decoded(body)
        yield f"batch {index.number} of shapes, round {index.round}, needs {index.needs}"
        yield from _frames(index, data)
        return
    if not kind:
        with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(body)) as tar:
            yield from [_member(tar, each) for each in tar] or ["an empty archive"]
            return
    text = body.decode("utf-8", "replace")
    if len(text) < _TEXT and text.replace("\n", "").isprintable():
        yield from text.splitlines()
    else:
        yield f"{len(body)} bytes: {_digest(body)}"


def _decompressed(body: bytes) -> bytes:
    with suppress(EOFError, OSError, RuntimeError, zlib.error, pyzstd.ZstdError):
        match body[:4]:
            case b"\x28\xb5\x2f\xfd":
                return bytes(pyzstd.decompress(body))
            case b"\x04\x22\x4d\x18":
                return bytes(lz4.frame.decompress(body))
            case start if start.startswith(b"\x1f\x8b"):
                return gzip.decompress(body)
    return body


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member) if member.isreg() else None
    content = _digest(file.read()) if file else member.linkname
    return f"{member.name} {member.type.decode()} {member.mode:o} {member.size} {content}"


# Batches


def _batch(request: Message) -> tuple[Index, bytes] | None:
    with suppress(WingsdError):
        if request.is_whole and request.line.startswith("PUT"):
            return _decoded(_decompressed(request.body))
    return None


def _decoded(body: bytes) -> tuple[Index, bytes]:
    """Return a batch's index and its bytes. Raises `WingsdError`."""
    begin = HEAD.size + index_length(body[: HEAD.size].ljust(HEAD.size))[0]
    return decode_index(body[HEAD.size : begin]), body[begin:]


def _frames(index: Index, data: bytes) -> Iterator[str]:
    at = 0
    for frame in index.frames:
        fields = attrs.asdict(frame)
        if "digests" in fields:
            fields["digests"] = _digest(fields["digests"])
        size = frame_bytes(frame)
        words = " ".join(f"{name}={value!r}" for name, value in fields.items())
        yield f"{type(frame).__name__} {words} {_digest(data[at : at + size]) if size else ''}"
        at += size


def _digest(data: bytes) -> str:
    """Return a digest that is not named: contents are the same in each run."""
    return "sha256 " + sha256(data).hexdigest()[:15]
