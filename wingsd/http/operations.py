"""Operations: the methods of a path, declared once for serving and documentation; JSON bodies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from http import HTTPStatus
from inspect import getdoc
from typing import Any, TypeVar, get_type_hints

import attrs

from wingsd.errors import BadRequest, InvalidData
from wingsd.util.serialization import structure, unstructure

__all__ = [
    "INVALID",
    "Access",
    "Call",
    "EncodedObject",
    "Success",
    "Topic",
    "call",
    "declared",
    "parse",
    "to_json",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_MARK = "declared_call"
#: Of whatever has a body of JSON: it is none, or it is too large to be kept.
_OF_BODIES = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


class Access(Enum):
    """Who may make a call: who shows no token, the node's own, or one for a transfer.

    Those for a transfer are the Panel's, or the node's own for a move by hand.
    """

    ANYBODY = "anybody"
    PANEL = "panel"
    TRANSFER = "transfer"
    HAND = "hand"


class Topic(Enum):
    """What a call is about, in a sentence."""

    NODE = "The node itself."
    SERVERS = "The servers of the node, as its Panel sees them."
    TRANSFERS = "Servers that move from node to node."
    CONSOLE = "What browsers watch."


@attrs.frozen
class Success:
    """How a call is answered when all is well: a status, what it means, and headers with theirs.

    Switching protocols is no answer of the handler's: it has handed the request on.
    """

    status: HTTPStatus
    meaning: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Call:
    """One method of one path.

    `order` and `query` are attrs classes, None for nothing; `content` is the type of what is
    answered, None for no body. `form` is the class that tells of a body which is not kept, but
    taken as it arrives, and `headers` the one of what may come with it. `fails` are the statuses
    of all refusals that are to be reckoned with.
    """

    method: str
    handler: Callable[..., Any]
    success: Success
    order: Any = None
    query: Any = None
    content: Any = None
    form: Any = None
    headers: Any = None
    access: Access = Access.ANYBODY
    topic: Topic = Topic.NODE
    fails: tuple[HTTPStatus, ...] = ()

    @property
    def name(self) -> str:
        """What it is called, in programs."""
        return self.handler.__name__

    @property
    def summary(self) -> str:
        """What it does, in a sentence: the beginning of the handler's docstring."""
        return self._paragraphs[0]

    @property
    def description(self) -> str:
        """What else there is to know of it; may be empty."""
        return "\n\n".join(self._paragraphs[1:])

    @property
    def _paragraphs(self) -> list[str]:
        paragraphs = (getdoc(self.handler) or "").split("\n\n")
        return [" ".join(paragraph.split()) for paragraph in paragraphs]


def call(
    method: str,
    success: Success,
    *,
    fails: tuple[HTTPStatus, ...] = (),
    access: Access = Access.ANYBODY,
    form: type | None = None,
    headers: type | None = None,
) -> Callable[[Handler], Handler]:
    """Declare that a handler answers `method`; its docstring is what people read of it.

    More is said by the class: see `declared`.
    """

    def declare(handler: Handler) -> Handler:
        types = get_type_hints(handler, include_extras=True)
        gives = types["return"]
        order = types.get("order")
        setattr(
            handler,
            _MARK,
            Call(
                method=method,
                handler=handler,
                success=success,
                order=order,
                query=types.get("query"),
                content=None if form or gives is type(None) else gives,
                form=form,
                headers=headers,
                access=access,
                fails=fails + (_OF_BODIES if order else ()),
            ),
        )
        return handler

    return declare


def declared(cls: type[Any]) -> dict[str, Call]:
    """Return the calls that a class declares, by method.

    Its `topic` is theirs, and so is its `access` where they are for anybody; what it and each
    class above it name in `fails` are refusals of all of them.
    """
    common = [status for base in cls.__mro__ for status in vars(base).get("fails", ())]
    found = {}
    for value in vars(cls).values():
        made = getattr(value, _MARK, None)
        if isinstance(made, Call):
            found[made.method] = attrs.evolve(
                made,
                access=cls.access if made.access is Access.ANYBODY else made.access,
                topic=cls.topic,
                fails=tuple(sorted({*made.fails, *common})),
            )
    return found


T = TypeVar("T")

# Both in the words of Wings, which a Panel shows to people.
_UNREADABLE = "The data passed in the request was not in a parsable format. Please try again."
#: Said of a body that is JSON, but does not hold what it should.
INVALID = "The data provided in the request could not be validated."


def _number(text: str) -> float:
    """Return what JSON has as a number: to it 3.0 is as whole as 3."""
    number = float(text)
    return int(number) if number.is_integer() else number


def parse(body: bytes, cls: type[T]) -> T:
    """Return the JSON object `body` as an instance of the attrs class `cls`.

    Raises `BadRequest` with what is wrong, by the paths of the keys.
    """
    try:
        data = json.loads(body, parse_float=_number)
        # JSON can spell half of a UTF-16 pair, which is no character and can be sent nowhere.
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(_UNREADABLE, f"send a JSON object: {error}") from error
    try:
        return structure(data, cls)
    except InvalidData as error:
        raise BadRequest(INVALID, "; ".join(str(error).split("\n"))) from error


class EncodedObject(bytes):
    """A JSON object that was encoded before, since it is the same in every answer."""


def to_json(content: object) -> bytes:
    """Return a body that says `content`, which is plain or holds values of attrs classes."""
    if isinstance(content, EncodedObject):
        return content
    return json.dumps(unstructure(content)).encode()
