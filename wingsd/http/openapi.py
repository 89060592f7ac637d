"""The OpenAPI document of the HTTP interface, made from the operations.

The format is that of https://spec.openapis.org/oas/v3.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import reduce
from http import HTTPStatus
from inspect import getdoc
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from wingsd.http.body_sender import FileBody, StreamedBody
from wingsd.http.operations import (
    Accepted,
    Access,
    BytesAnswer,
    Call,
    Encoded,
    Error,
    PlainText,
    Repeated,
    Success,
    Topic,
    TreePage,
)
from wingsd.util.serialization import Keywords

Schema = dict[str, Any]

SCALARS: dict[object, Schema] = {
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    float: {"type": "number"},
    int: {"type": "integer"},
    str: {"type": "string"},
    Any: {},
}


class Schemas:
    """The schemas of a document. `found` has the schemas of classes by name."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._kinds: dict[str, tuple[type, bool]] = {}

    def request(self, kind: Any) -> Schema:
        """Return the schema of a value in a request. Raises `TypeError` for other types."""
        return self._of(kind, is_request=True)

    def response(self, kind: Any) -> Schema:
        """Return the schema of a value in an answer. Raises `TypeError` for other types."""
        return self._of(kind, is_request=False)

    def texts(self, cls: Any) -> dict[str, tuple[Schema, bool]]:
        """Return schemas of query or header values by name, and whether each is required."""
        return {
            field.name: (self._of(field.type, is_request=False), _is_required(field))
            for field in attrs.fields(attrs.resolve_types(cls))
        }

    def _of(self, kind: Any, *, is_request: bool, null: bool = False) -> Schema:
        if get_origin(kind) is Annotated:
            plain, *notes = get_args(kind)
            return self._of(plain, is_request=is_request, null=null) | _keywords(notes)
        schema = self._plain(kind, is_request=is_request)
        if not null:
            return schema
        if "type" in schema:
            return schema | {"type": [schema["type"], "null"]}
        return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}

    def _plain(self, kind: Any, *, is_request: bool) -> Schema:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            # None is the default of an optional field, and not a type of its own.
            kinds = [
                self._of(each, is_request=is_request) for each in arguments if each is not NoneType
            ]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if origin in (list, tuple):
            return {"type": "array", "items": self._of(arguments[0], is_request=is_request)}
        if origin is dict:
            values = self._of(arguments[1], is_request=is_request)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if kind in SCALARS:
            return dict(SCALARS[kind])
        return self._named(kind, is_request=is_request)

    def _named(self, kind: Any, *, is_request: bool) -> Schema:
        """Return a reference to the schema of a class, which is created once."""
        known = self._kinds.setdefault(kind.__name__, (kind, is_request))
        if known != (kind, is_request):
            raise TypeError(f"there are two schemas named {kind.__name__}")
        if kind.__name__ not in self.found:
            self.found[kind.__name__] = {}  # It comes before the classes of its fields.
            self.found[kind.__name__] |= _described(kind) | self._class(
                kind, is_request=is_request
            )
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _class(self, kind: Any, *, is_request: bool) -> Schema:
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [each.value for each in kind]}
        if not attrs.has(kind):
            raise TypeError(f"{kind.__name__} has no JSON schema")
        fields = attrs.fields(attrs.resolve_types(kind))
        schema: Schema = {
            "type": "object",
            "required": [field.name for field in fields if _is_required(field)],
            "properties": {
                field.name: self._property(field, is_request=is_request) for field in fields
            },
        }
        if not schema["required"]:
            del schema["required"]
        return schema if is_request else schema | {"additionalProperties": False}

    def _property(self, field: attrs.Attribute[Any], *, is_request: bool) -> Schema:
        # An optional field is null in requests and left out of answers, which have null where a
        # field that they always have has no value.
        plain = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        allows_none = get_origin(plain) in (Union, UnionType) and NoneType in get_args(plain)
        null = is_request or allows_none
        null = null and _is_required(field) is not is_request
        schema = self._of(field.type, is_request=is_request, null=null)
        if isinstance(field.default, bool | int | float):
            schema["default"] = field.default
        return schema


def _is_required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING


def _described(kind: type) -> Schema:
    return {"description": " ".join((getdoc(kind) or "").split())}


def _keywords(notes: list[Any]) -> Schema:
    schema: Schema = {}
    for note in notes:
        words = note.words if isinstance(note, Keywords) else (("description", note),)
        schema |= {key: list(value) if isinstance(value, tuple) else value for key, value in words}
    return schema


#: The version is that of the interface. The release of wingsd is reported to the Panel only.
INFO: Mapping[str, Any] = {
    "title": "wingsd",
    "version": "1",
    "summary": "A game server node daemon for Pterodactyl, Pelican and Calagopus Panels.",
    "description": (
        "The interface for Panels, browsers and other nodes. Bodies are described in JSON; with "
        "`Content-Type` and `Accept: application/msgpack` they are the same data in MessagePack, "
        "and an empty answer is an empty map. Every error has an `error`, "
        "its stable `code`, and a `detail` with the remedy unless that is obvious. Any path may "
        "answer 400 to invalid HTTP, 413 to a body over 1 MiB (uploads are not limited), 431 to "
        "a header line over 16 KiB, and 503 while the node is stopping. OPTIONS is answered on "
        "every path, with `Allow`. Null is the same as an absent value; unknown names are "
        "ignored. Every answer has `X-Request-Id`, a UUID that identifies the request in the "
        "node's log, and a `User-Agent` with the node's `token_id`."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

SCHEMES: Mapping[str, Mapping[str, str]] = {
    "panel": {
        "type": "http",
        "scheme": "bearer",
        "description": "The `token` of the node's configuration.",
    },
    "transfer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by the Panel for the transfer of one server to this node.",
    },
    "hand": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by this node for the direct transfer of one server to it.",
    },
    "signed": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "A JWT, issued by the Panel for one file, backup or upload of a user.",
    },
    "move": {
        "type": "http",
        "scheme": "bearer",
        "description": "The key of a move, which its source has made.",
    },
    "pair": {
        "type": "http",
        "scheme": "bearer",
        "description": "The key of a pair, which this node has made for the other one.",
    },
}

_UUID = {"type": "string", "format": "uuid"}
#: The variable parts of paths.
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "uuid": {"description": "The UUID of the server.", "schema": _UUID},
    "operation": {"description": "The identifier of a change of files.", "schema": _UUID},
    "identifier": {"description": "The identifier of a download from a URL.", "schema": _UUID},
    "backup": {"description": "The UUID of a backup.", "schema": _UUID},
    "move": {
        "description": "The id of a move.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
    "number": {
        "description": "The number of a batch or a round, from 1.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "name": {
        "description": "The UUID of a backup, or `install.log`.",
        "schema": {"type": "string"},
    },
    "file": {"description": "The name of a log file.", "schema": {"type": "string"}},
}


#: The headers of every error, by name.
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "Identifies the request in the node's log.",
        "required": True,
        "schema": _UUID,
    },
}


@attrs.frozen(eq=False, repr=False)
class Failure:
    """An error response: its name in the document, its meaning, and its headers."""

    name: str
    meaning: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


FAILURES: Mapping[int, Failure] = {
    400: Failure("BadRequest", "The request is invalid, or not possible for this server."),
    401: Failure(
        "Unauthorized", "The token is missing or invalid.", {"WWW-Authenticate": "`Bearer`."}
    ),
    403: Failure(
        "Forbidden", "The token, or the origin of the web page, is not allowed to do this."
    ),
    404: Failure("NotFound", "This node has no such server or transfer."),
    409: Failure("Conflict", "It conflicts with the state of the server."),
    410: Failure("Gone", "The move has ended."),
    507: Failure("NoSpace", "There is no space on the disk now.", {"Retry-After": "Seconds."}),
    413: Failure("TooLarge", "The body is over 1 MiB."),
    416: Failure("RangeNotSatisfiable", "The file ends before the requested range."),
    422: Failure("Unprocessable", "A value is invalid."),
    426: Failure(
        "UpgradeRequired", "The headers of RFC 6455 are missing.", {"Upgrade": "`websocket`."}
    ),
    417: Failure("FileFailed", "Calagopus' status for what cannot be done with a file."),
    500: Failure("Failed", "The node failed to do it; see its log."),
    502: Failure("ServerNotRunning", "The server is not running."),
    503: Failure(
        "Unavailable",
        "The Panel cannot be reached, or has not sent the list of servers yet; or the node is "
        "stopping, or has too many transfers.",
        {"Retry-After": "Seconds, if known."},
    ),
}


_JSON = "application/json"
_TEXT = "text/plain"
_BYTES = "application/octet-stream"
_NAMES = re.compile(r"\{(\w+)\}")


def document(paths: Mapping[str, Mapping[str, Call]]) -> dict[str, Any]:
    """Return the document of calls, given by path and method."""
    schemas = Schemas()
    items = {path: _item(path, calls, schemas) for path, calls in paths.items()}
    error = schemas.response(Error)
    return {
        "openapi": "3.1.0",
        "info": dict(INFO),
        # The address that the document was loaded from.
        "servers": [{"url": "/"}],
        "tags": [{"name": _tag(topic), "description": topic.value} for topic in Topic],
        "paths": items,
        "components": {
            "securitySchemes": {name: dict(scheme) for name, scheme in SCHEMES.items()},
            "parameters": {
                name: {"name": name, "in": "path", "required": True, **parameter}
                for name, parameter in PARAMETERS.items()
            },
            "headers": {name: dict(header) for name, header in HEADERS.items()},
            "responses": {failure.name: _failure(failure, error) for failure in FAILURES.values()},
            "schemas": dict(sorted(schemas.found.items())),
        },
    }


def _item(path: str, calls: Mapping[str, Call], schemas: Schemas) -> dict[str, Any]:
    named = [{"$ref": f"#/components/parameters/{name}"} for name in _NAMES.findall(path)]
    operations = {made.method.lower(): _operation(made, schemas) for made in calls.values()}
    return ({"parameters": named} if named else {}) | operations


def _operation(made: Call, schemas: Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": made.name,
        "tags": [_tag(made.topic)],
        "summary": made.summary,
    }
    if made.description:
        operation["description"] = made.description
    operation["security"] = [] if made.access is Access.PUBLIC else [{made.access.scheme: []}]
    parameters = [*_texts(made.query, "query", schemas), *_texts(made.headers, "header", schemas)]
    if parameters:
        operation["parameters"] = parameters
    if made.body is not None:
        operation["requestBody"] = _body(_JSON, schemas.request(made.body), made.needs_body)
    elif made.form is bytes:
        operation["requestBody"] = _body(_BYTES, SCALARS[bytes])
    elif made.form is not None:
        operation["requestBody"] = _body("multipart/form-data", schemas.request(made.form))
    operation["responses"] = _successes(made, schemas) | {
        str(status.value): {"$ref": f"#/components/responses/{FAILURES[status].name}"}
        for status in made.fails
    }
    return operation


def _texts(of: Any, place: str, schemas: Schemas) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for key, (schema, required) in ({} if of is None else schemas.texts(of)).items():
        name = key.title().replace("_", "-") if place == "header" else key
        description = {"description": schema.pop("description")} if "description" in schema else {}
        found.append(
            {"name": name, "in": place, "required": required, **description, "schema": schema}
        )
    return found


def _body(media: str, schema: dict[str, Any], required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {media: {"schema": schema}}}


#: Of answers that a call has beside its usual one.
_FOR_CALAGOPUS = Success(HTTPStatus.OK, "The same, for Calagopus' Panel.")
_AGAIN = Success(HTTPStatus.OK, "It was done before, and this is the same answer.")
_GOES_ON = Success(HTTPStatus.ACCEPTED, "It takes longer, and goes on.")


def _successes(made: Call, schemas: Schemas) -> dict[str, Any]:
    """Return the answers to a call that succeeds, by their statuses."""
    is_union = get_origin(made.content) in (Union, UnionType)
    forms = get_args(made.content) if is_union else (made.content,)
    others = (Accepted, Repeated)
    usual = [form for form in forms if get_origin(form) not in others and form is not NoneType]
    content = reduce(or_, usual) if len(usual) > 1 else (usual or [None])[0]
    answers = [(made.success, content)]
    if made.success.status is HTTPStatus.NO_CONTENT and content is not None:
        answers = [(made.success, None), (_FOR_CALAGOPUS, content)]
    answers += [(_GOES_ON, *get_args(form)) for form in forms if get_origin(form) is Accepted]
    answers += [(_AGAIN, *get_args(form)) for form in forms if get_origin(form) is Repeated]
    return {str(each.status.value): _success(each, form, schemas) for each, form in answers}


def _success(success: Success, content: Any, schemas: Schemas) -> dict[str, Any]:
    answer = _answer(success.meaning, success.headers)
    if content is not None:
        if get_origin(content) is Encoded:
            (content,) = get_args(content)
        forms = get_args(content) if isinstance(content, UnionType) else (content,)
        plain = (PlainText, FileBody, StreamedBody, BytesAnswer, TreePage)
        data = [form for form in forms if form not in plain]
        answer["content"] = (
            {_JSON: {"schema": schemas.response(reduce(or_, data))}} if data else {}
        )
        if FileBody in forms or StreamedBody in forms:
            answer["content"][_BYTES] = {"schema": SCALARS[bytes]}
        for form in (BytesAnswer, TreePage):
            if form in forms:
                answer["content"][form.media] = {"schema": SCALARS[bytes]}
        if PlainText in forms:
            answer["content"][_TEXT] = {"schema": {"type": "string"}}
    return answer


def _answer(meaning: str, headers: Mapping[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": meaning}
    if headers:
        answer["headers"] = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in headers.items()
        }
    return answer


def _failure(failure: Failure, error: dict[str, Any]) -> dict[str, Any]:
    answer = _answer(failure.meaning, failure.headers)
    common = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    answer["headers"] = answer.get("headers", {}) | common
    return answer | {"content": {_JSON: {"schema": error}}}


def _tag(topic: Topic) -> str:
    return topic.name.lower()
