"""Operations: the methods of a path, and their bodies.

`call` declares a handler once, for serving it and for the OpenAPI document: its signature has the
types of body, query and answer, its docstring is the description. `Error` is the body of
every answer with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from http import HTTPStatus
from inspect import getdoc, iscoroutinefunction
from types import MethodType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args, get_type_hints

import attrs

from wingsd.auth.tokens import TokenKind
from wingsd.errors import BadRequest, InvalidData, WingsdError, error_codes
from wingsd.http.body_sender import FileBody, StreamedBody
from wingsd.util.media import MediaType, decode
from wingsd.util.serialization import Keywords, structure

# Errors of every call with a body of data: it is invalid, or too large.
_BODY_ERRORS = (400, 413)


class Access(Enum):
    """The kind of token that a call needs: its scheme in the OpenAPI document, and its JWT's kind.

    Tokens of transfers and signed URLs are issued by the Panel, those of direct transfers and keys
    of pairs by this node, and the key of a move by its source. Who may use the control socket is
    up to its mode.
    """

    PUBLIC = "public", None
    CONTROL = "control", None
    PANEL = "panel", None
    TRANSFER = "transfer", TokenKind.TRANSFER
    DIRECT_TRANSFER = "hand", TokenKind.TRANSFER
    MOVE = "move", None
    PAIR = "pair", None
    BACKUP_DOWNLOAD = "signed", TokenKind.BACKUP_DOWNLOAD
    FILE_DOWNLOAD = "signed", TokenKind.FILE_DOWNLOAD
    FILES_DOWNLOAD = "signed", TokenKind.FILES_DOWNLOAD
    FILE_UPLOAD = "signed", TokenKind.FILE_UPLOAD

    def __init__(self, scheme: str, kind: TokenKind | None) -> None:
        self.scheme = scheme
        self.kind = kind
        #: Whether the body of an authorized request is stored, where its path streams none.
        self.admits_body = scheme not in ("public", "signed")


class Topic(Enum):
    """The tags of calls in the OpenAPI document."""

    NODE = "The node itself."
    SERVERS = "The servers of the node, for its Panel."
    TRANSFERS = "Transfers of servers between nodes."
    CONSOLE = "The consoles of servers, for browsers."
    FILES = "The files of servers."
    BACKUPS = "The backups of servers."


@attrs.frozen(eq=False, repr=False)
class Success:
    """The answer of a successful call: its status, and headers with their meanings.

    With 101 Switching Protocols the handler has passed the request on, and answers nothing.
    """

    status: HTTPStatus
    meaning: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


@attrs.define(eq=False, repr=False)
class Call:
    """One method of one path.

    `body` and `query` are attrs classes, or None; a body that is not `needs_body` may be empty.
    `content` is the type of the answer's body, or None; with 204 as the success it is that of a
    200, which some clients get in its place. `form` is a class that describes a body which is read
    as it arrives, `bytes` where it may be any. `headers` is a class that describes request
    headers. `fails` are the statuses of expected errors.
    """

    handler: Callable[..., Any]
    success: Success
    body: Any = None
    needs_body: bool = True
    query: Any = None
    content: Any = None
    form: Any = None
    headers: Any = None
    fails: tuple[HTTPStatus, ...] = ()
    #: Of the class that declares it.
    endpoint: Any = None
    topic: Topic = Topic.NODE
    #: Of its row in the table of routes.
    method: str = ""
    access: Access = Access.PANEL

    def __set_name__(self, owner: type[Any], name: str) -> None:
        """Take over the `topic` of the class, and its `fails` and those of its base classes."""
        self.endpoint, self.topic = owner, owner.topic
        for base in owner.__mro__:
            self.fails += tuple(map(HTTPStatus, vars(base).get("fails", ())))

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        """Return the handler as a method of an instance."""
        return self if instance is None else MethodType(self.handler, instance)

    def routed(self, method: str, access: Access) -> Call:
        """Return the call as a row of the table of routes has it."""
        refused = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        fails = {*self.fails, *(refused if access is Access.PANEL else ())}
        return attrs.evolve(self, method=method, access=access, fails=tuple(sorted(fails)))

    @property
    def sends_file(self) -> bool:
        """True if the answer is a file, or made while it is sent: HEAD is answered like GET."""
        given = (self.content, *get_args(self.content))
        return FileBody in given or StreamedBody in given

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.handler.__name__

    @property
    def summary(self) -> str:
        """The first paragraph of the handler's docstring."""
        return self._paragraphs[0]

    @property
    def description(self) -> str:
        """The other paragraphs of the handler's docstring; may be empty."""
        return "\n\n".join(self._paragraphs[1:])

    @property
    def _paragraphs(self) -> list[str]:
        paragraphs = (getdoc(self.handler) or "").split("\n\n")
        return [" ".join(paragraph.split()) for paragraph in paragraphs]


def call(
    status: int,
    meaning: str,
    *,
    answer_headers: Mapping[str, str] = {},
    fails: tuple[int, ...] = (),
    form: type | None = None,
    headers: type | None = None,
) -> Callable[[Callable[..., Any]], Call]:
    """Declare a handler and its success (see `Success`), documented by its docstring.

    Its parameter `body` has the class of the body, with `| None` where it may be empty, `query`
    that of the query string, and its return type is the content of the answer. One that is not a
    coroutine sends its answer itself, and returns what reads the body.
    """

    def declare(handler: Callable[..., Any]) -> Call:
        types = get_type_hints(handler, include_extras=True)
        gives = types["return"]
        body, *others = get_args(types.get("body")) or (types.get("body"),)
        return Call(
            handler=handler,
            success=Success(HTTPStatus(status), meaning, answer_headers),
            body=body,
            needs_body=type(None) not in others,
            query=types.get("query"),
            content=gives if iscoroutinefunction(handler) and gives is not type(None) else None,
            form=form,
            headers=headers,
            fails=tuple(map(HTTPStatus, fails + (_BODY_ERRORS if body else ()))),
        )

    return declare


T = TypeVar("T")
Content_co = TypeVar("Content_co", covariant=True)

# Both as in Wings; a Panel shows them to users.
_UNREADABLE = "The data passed in the request was not in a parsable format. Please try again."
#: The message for a body with invalid values.
INVALID = "The data provided in the request could not be validated."


_FORMS = {MediaType.JSON: "a JSON object", MediaType.MESSAGE_PACK: "a map in MessagePack"}


def parse(body: bytes, cls: type[T], media: MediaType = MediaType.JSON) -> T:
    """Return `body`, a map in the format `media`, as an instance of the attrs class `cls`.

    Raises `BadRequest` with the paths of invalid keys.
    """
    try:
        data = decode(body, media)
    except InvalidData as error:
        raise BadRequest(_UNREADABLE, f"send {_FORMS[media]}: {error}") from error
    try:
        return structure(data, cls)
    except InvalidData as error:
        raise BadRequest(INVALID, "; ".join(str(error).split("\n"))) from error


@attrs.frozen(eq=False, repr=False)
class Encoded(Generic[T]):
    """An answer of the type `T` that is already encoded."""

    body: bytes
    media: MediaType


@attrs.frozen(eq=False, repr=False)
class Accepted(Generic[Content_co]):
    """An answer of the type `Content_co` with 202, to a call that takes longer and goes on."""

    content: Content_co
    status: ClassVar = HTTPStatus.ACCEPTED


class Repeated(Accepted[Content_co]):
    """An answer of the type `Content_co` with 200, to a call that was made before."""

    status = HTTPStatus.OK


class BytesAnswer(bytes):
    """An answer that is bytes."""

    __slots__ = ()
    media = "application/octet-stream"


class TreePage(BytesAnswer):
    """An answer that is a page of what the destination of a move holds."""

    __slots__ = ()
    media = "application/vnd.wingsd.tree"


class PlainText(str):
    """An answer in text/plain, whatever format is asked for."""

    __slots__ = ()


@attrs.frozen(eq=False, repr=False)
class Error:
    """The body of every answer to a request that is refused or fails."""

    error: Annotated[str, "What went wrong.", Keywords(minLength=1)]
    code: Annotated[
        str,
        "The kind of error. Codes stay the same across versions; messages may change.",
        Keywords(enum=error_codes()),
    ]
    request_id: Annotated[str, "The `X-Request-Id` of the answer.", Keywords(format="uuid")]
    detail: Annotated[str, "What to do, where that is not plain.", Keywords(minLength=1)] = ""
    offset: Annotated[int | None, "With `move-offset-wrong`: where to go on."] = None

    @classmethod
    def of(cls, error: WingsdError, request_id: str) -> Error:
        """Return the body that answers a request with `error`."""
        offset = getattr(error, "offset", None)
        return cls(error.message, error.code, request_id, error.detail, offset)
