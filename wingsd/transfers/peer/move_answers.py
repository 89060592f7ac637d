"""The answers to requests of moves that resume: their fields, and what the source does then.

See docs/moves.md, "Requests" and "Errors".
"""

from __future__ import annotations

import json
from enum import Enum
from http import HTTPStatus
from typing import TypeVar

import attrs

from wingsd.errors import DestinationError, DestinationRefused, InvalidData
from wingsd.http_client.exchange import Answer, plain
from wingsd.transfers.peer.client import judge
from wingsd.util.serialization import structure

__all__ = [
    "AttachmentOffset",
    "BatchTaken",
    "BegunAnswer",
    "MoveResumed",
    "MoveSmaller",
    "Prepared",
    "ProgressAnswer",
    "Reaction",
    "ResumeNeeded",
    "RoundClosed",
    "answer_code",
    "failure_of",
    "fields",
    "is_of_proxy",
    "is_path_unknown",
    "progress_of",
    "reaction",
    "refusal",
]

T = TypeVar("T")

#: Statuses after which the same request is sent again. 520 to 524 are Cloudflare's.
_AGAIN = frozenset({408, 429, 500, 502, 503, 504, *range(520, 525)})
#: Those of proxies that did not get a body through, or no answer in time.
_CUT = frozenset({408, 502, 504, *range(520, 525)})
_RESUME = frozenset(
    {
        "move-resume-needed",
        "move-root-mismatch",
        "move-batch-conflict",
        "move-round-incomplete",
    }
)
#: Statuses, and the codes of them, with which something that does not know moves answers.
_PATH_UNKNOWN = frozenset({404, 405, 501})
_UNKNOWN_CODES = frozenset({"", "path-not-found", "method-not-allowed"})


#: The code for a version of moves that the destination does not know.
VERSION_UNKNOWN = "move-version-unknown"


class Reaction(Enum):
    """What the source does after an answer that is none of success."""

    AGAIN = "again"
    #: Three times.
    DAMAGED = "damaged"
    SOON = "soon"
    RESUME = "resume"
    SMALLER = "smaller"
    NO_SPACE = "no space"
    FAIL = "fail"


class ResumeNeeded(Exception):
    """The destination has to be asked what it holds; `error` is why, `code` that of its answer."""

    def __init__(self, error: DestinationRefused, code: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = code


class MoveSmaller(Exception):
    """A body was too large for the destination, or for a proxy in front of it.

    One that `was_cut` did not get through, and a later one of that size may.
    """

    def __init__(self, error: DestinationError, *, was_cut: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.was_cut = was_cut


@attrs.frozen(repr=False)
class BegunAnswer:
    """The answer to the beginning: `batch` is the most bytes of a body, `streams` of requests.

    `attributes` are the kinds of extended attributes that the destination keeps.
    """

    id: str
    version: int
    batch: int
    streams: int
    encodings: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


@attrs.frozen(repr=False)
class MoveResumed:
    """What the destination holds: `pages` pages, `bytes` bytes; and the numbers that come next."""

    session: str
    round: int
    next: int
    shape: int
    file: int
    pages: int
    bytes: int


@attrs.frozen(repr=False)
class BatchTaken:
    """The number up to which all batches are on stable storage."""

    durable: int


@attrs.frozen(repr=False)
class RoundClosed:
    """The root of the round, in hexadecimal digits."""

    root: str


@attrs.frozen(repr=False)
class AttachmentOffset:
    """How many bytes of an attachment have arrived."""

    offset: int


@attrs.frozen(repr=False)
class Prepared:
    """How far the destination's preparation is: `under way`, `ready` or `failed`, and why.

    One that is `final` fails again until a person has changed something; earlier versions do not
    say so. `container_seconds` is what making the server's container has taken there.
    """

    state: str
    error: str = ""
    detail: str = ""
    code: str = ""
    final: bool = False
    container_seconds: float = 0.0


@attrs.frozen(repr=False)
class ProgressAnswer:
    """How far the destination is; `outcome` is empty until it is known.

    `session` is the one that has the word, empty without. `steps` grow while it works on what was
    asked; earlier versions do not tell them.
    """

    phase: str
    preparation: Prepared | None = None
    tag: str = ""
    session: str = ""
    steps: int = 0
    step: str = ""
    text: str = ""
    outcome: str = ""
    error: str = ""
    detail: str = ""
    code: str = ""


def fields(answer: Answer, kind: type[T]) -> T:
    """Return the fields of an answer. Raises `DestinationRefused` where they are not as agreed."""
    try:
        return structure(json.loads(answer.body), kind)
    except (ValueError, RecursionError, InvalidData) as error:
        raise DestinationRefused(
            "the destination node's answer is not one to a move",
            f"{plain(str(error))}; see whether a proxy in front of it answers in its place",
            answer.code,
        ) from error


def progress_of(answer: Answer) -> ProgressAnswer:
    """Return how far the destination is, with its texts as lines. Raises as `fields`."""
    found = fields(answer, ProgressAnswer)
    tried = found.preparation
    if tried is not None:
        tried = attrs.evolve(tried, error=plain(tried.error), detail=plain(tried.detail))
    error, detail = plain(found.error), plain(found.detail)
    return attrs.evolve(found, error=error, detail=detail, preparation=tried)


def failure_of(progress: ProgressAnswer) -> DestinationRefused:
    """Return the error of a move that has failed at the destination."""
    text = progress.error or "the move has failed there"
    return DestinationRefused(f"the destination node says: {text}", progress.detail, 502)


def answer_code(answer: Answer) -> str:
    """Return the code of an error, empty without one."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ""
    code = found.get("code") if isinstance(found, dict) else None
    return code if isinstance(code, str) else ""


def is_path_unknown(answer: Answer) -> bool:
    """Return whether the answer is of something that does not know moves, or not this version."""
    code = answer_code(answer)
    is_unknown = answer.code in _PATH_UNKNOWN and code in _UNKNOWN_CODES
    return is_unknown or (answer.code == HTTPStatus.BAD_REQUEST and code == VERSION_UNKNOWN)


def is_of_proxy(answer: Answer) -> bool:
    """Return whether a proxy has given up a request that it could not pass on, or in time."""
    return answer.code in _CUT and not answer_code(answer)


def refusal(answer: Answer) -> DestinationRefused:
    """Return the error of an answer that is none of success."""
    try:
        judge(answer)
    except DestinationRefused as error:
        error.answer_code = answer_code(answer)
        error.is_temporary = answer.code in _AGAIN
        error.is_foreign = not error.answer_code
        return error
    raise AssertionError(answer.code)


def reaction(answer: Answer) -> Reaction:
    """Return what the source does after an answer that is none of success."""
    code = answer_code(answer)
    match answer.code:
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Reaction.SMALLER
        case HTTPStatus.INSUFFICIENT_STORAGE:
            return Reaction.NO_SPACE
        case HTTPStatus.CONFLICT if code == "move-shape-missing":
            return Reaction.SOON
        case HTTPStatus.CONFLICT if code in _RESUME:
            return Reaction.RESUME
        case HTTPStatus.BAD_REQUEST if code == "move-batch-damaged":
            return Reaction.DAMAGED
    return Reaction.AGAIN if answer.code in _AGAIN else Reaction.FAIL
