"""The OpenAPI document of the HTTP interface, made from the operations.

In `Annotated`, a text describes a value, and `Keywords` are the schema's own. A field that has a
default may be left out. What is asked may then also be null, and hold more than is known; what is
answered never does.

`python -m wingsd.http.openapi` prints it, as the node answers it at `/openapi.json`.

https://spec.openapis.org/oas/v3.1.0 is the source of the form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from wingsd.http.errors import Error
from wingsd.http.operations import Access, Call, EncodedObject, Success, Topic
from wingsd.util.serialization import Keywords

__all__ = [
    "FAILURES",
    "HEADERS",
    "INFO",
    "PARAMETERS",
    "SCHEMES",
    "Failure",
    "Schemas",
    "document",
]

Schema = dict[str, Any]

_SCALARS: dict[object, Schema] = {
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    float: {"type": "number"},
    int: {"type": "integer"},
    str: {"type": "string"},
    Any: {},
    EncodedObject: {"type": "object"},
}


class Schemas:
    """The schemas of a document; `found` has those of classes by their names."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._kinds: dict[str, tuple[type, bool]] = {}

    def asked(self, kind: Any) -> Schema:
        """Return the schema of what is sent to the node. Raises `TypeError` where none can be."""
        return self._of(kind, asked=True)

    def answered(self, kind: Any) -> Schema:
        """Return the schema of what the node answers. Raises `TypeError` where none can be."""
        return self._of(kind, asked=False)

    def texts(self, cls: Any) -> dict[str, tuple[Schema, bool]]:
        """Return the schemas of what is sent as texts, by name, and whether each must be there."""
        return {
            field.name: (self._of(field.type, asked=False), _is_required(field))
            for field in attrs.fields(attrs.resolve_types(cls))
        }

    def _of(self, kind: Any, *, asked: bool, null: bool = False) -> Schema:
        if get_origin(kind) is Annotated:
            plain, *notes = get_args(kind)
            return self._of(plain, asked=asked, null=null) | _said(notes)
        schema = self._plain(kind, asked=asked)
        return _or_null(schema) if null else schema

    def _plain(self, kind: Any, *, asked: bool) -> Schema:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            # That it may be nothing is said by the field, which has a default then.
            kinds = [self._of(each, asked=asked) for each in arguments if each is not NoneType]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if origin in (list, tuple):
            return {"type": "array", "items": self._of(arguments[0], asked=asked)}
        if origin is dict:
            values = self._of(arguments[1], asked=asked)
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if kind in _SCALARS:
            return dict(_SCALARS[kind])
        return self._named(kind, asked=asked)

    def _named(self, kind: Any, *, asked: bool) -> Schema:
        """Return a reference to the schema of a class, which is made once."""
        known = self._kinds.setdefault(kind.__name__, (kind, asked))
        if known != (kind, asked):
            raise TypeError(f"there are two schemas named {kind.__name__}")
        if kind.__name__ not in self.found:
            self.found[kind.__name__] = {}  # Its place; what is in it comes after it.
            self.found[kind.__name__] |= _described(kind) | self._class(kind, asked=asked)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _class(self, kind: Any, *, asked: bool) -> Schema:
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [each.value for each in kind]}
        if not attrs.has(kind):
            raise TypeError(f"{kind.__name__} is nothing that JSON could hold")
        fields = attrs.fields(attrs.resolve_types(kind))
        schema: Schema = {
            "type": "object",
            "required": [field.name for field in fields if _is_required(field)],
            "properties": {field.name: self._property(field, asked=asked) for field in fields},
        }
        if not schema["required"]:
            del schema["required"]
        return schema if asked else schema | {"additionalProperties": False}

    def _property(self, field: attrs.Attribute[Any], *, asked: bool) -> Schema:
        optional = not _is_required(field)
        schema = self._of(field.type, asked=asked, null=asked and optional)
        if isinstance(field.default, bool | int | float):
            schema["default"] = field.default
        return schema


def _is_required(field: attrs.Attribute[Any]) -> bool:
    return field.default is attrs.NOTHING


def _described(kind: type) -> Schema:
    return {"description": " ".join((getdoc(kind) or "").split())}


def _said(notes: list[Any]) -> Schema:
    schema: Schema = {}
    for note in notes:
        schema |= _plain_words(note) if isinstance(note, Keywords) else {"description": note}
    return schema


def _plain_words(note: Keywords) -> Schema:
    return {word: list(said) if isinstance(said, tuple) else said for word, said in note.words}


def _or_null(schema: Schema) -> Schema:
    if "type" in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


#: The version is that of the interface: which release of wingsd a node runs is told to those who
#: have its token.
INFO: Mapping[str, Any] = {
    "title": "wingsd",
    "version": "1",
    "summary": "A game server node daemon for Pterodactyl and Pelican Panels.",
    "description": (
        "Paths, bodies and answers are those that Panels and other nodes count on. Every error is "
        "JSON with an `error`, and where that does not tell what to do, a `detail`. Any path may "
        "answer 400 to what is not HTTP, 413 to a body over 1 MiB (an upload may be of any size), "
        "431 to a header line over 16 KiB, and 503 while the node goes down. OPTIONS is answered "
        "everywhere, with `Allow`. Null is the same as nothing; names that are not known are not "
        "looked at. Every answer has `X-Request-Id`, a UUID that names it in the node's log."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

SCHEMES: Mapping[Access, Mapping[str, str]] = {
    Access.PANEL: {
        "type": "http",
        "scheme": "bearer",
        "description": "The node's own `token`, which its Panel knows.",
    },
    Access.TRANSFER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by the Panel for the transfer of one server to this node.",
    },
    Access.HAND: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Issued by this node for moving one server here by hand.",
    },
}

#: The parts of paths that are not the same in every request.
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "uuid": {"description": "The server's.", "schema": {"type": "string", "format": "uuid"}},
}


#: The headers of every failure, by the names that the document refers to them by.
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "Names the request in the node's log.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
}


@attrs.frozen
class Failure:
    """A kind of refusal: its name, what it means, and headers that come with it."""

    name: str
    meaning: str
    headers: Mapping[str, str] = attrs.field(factory=dict)


FAILURES: Mapping[HTTPStatus, Failure] = {
    HTTPStatus.BAD_REQUEST: Failure(
        "BadRequest", "It is not of the form it should have, or cannot be done to this server."
    ),
    HTTPStatus.UNAUTHORIZED: Failure(
        "Unauthorized",
        "There is no token, or none that is good.",
        {"WWW-Authenticate": "`Bearer`."},
    ),
    HTTPStatus.FORBIDDEN: Failure(
        "Forbidden", "It is not the token, or not the web page, that this needs."
    ),
    HTTPStatus.NOT_FOUND: Failure("NotFound", "There is no such server or transfer here."),
    HTTPStatus.CONFLICT: Failure(
        "Conflict", "It does not go together with what the server is doing."
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Failure("TooLarge", "The body is over 1 MiB."),
    HTTPStatus.UNPROCESSABLE_ENTITY: Failure("Unprocessable", "One of the values makes no sense."),
    HTTPStatus.UPGRADE_REQUIRED: Failure(
        "UpgradeRequired", "The headers of RFC 6455 are missing.", {"Upgrade": "`websocket`."}
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: Failure(
        "Failed", "The node could not do it; its log tells more."
    ),
    HTTPStatus.BAD_GATEWAY: Failure("ServerNotRunning", "The server does not run."),
    HTTPStatus.SERVICE_UNAVAILABLE: Failure(
        "Unavailable",
        "The Panel cannot be reached, or has not told yet which servers there are; or the node is "
        "going down, or takes no more transfers for now.",
        {"Retry-After": "Seconds, where it is known."},
    ),
}


_JSON = "application/json"
_NAMES = re.compile(r"\{(\w+)\}")


def document(paths: Mapping[str, Mapping[str, Call]]) -> dict[str, Any]:
    """Return the document of calls, which are given by path and method."""
    schemas = Schemas()
    items = {path: _item(path, calls, schemas) for path, calls in paths.items()}
    error = schemas.answered(Error)
    return {
        "openapi": "3.1.0",
        "info": dict(INFO),
        # Where the document was had from.
        "servers": [{"url": "/"}],
        "tags": [{"name": _tag(topic), "description": topic.value} for topic in Topic],
        "paths": items,
        "components": {
            "securitySchemes": {access.value: dict(said) for access, said in SCHEMES.items()},
            "parameters": {
                name: {"name": name, "in": "path", "required": True, **said}
                for name, said in PARAMETERS.items()
            },
            "headers": {name: dict(said) for name, said in HEADERS.items()},
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
    operation["security"] = [] if made.access is Access.ANYBODY else [{made.access.value: []}]
    parameters = [*_texts(made.query, "query", schemas), *_texts(made.headers, "header", schemas)]
    if parameters:
        operation["parameters"] = parameters
    if made.order is not None:
        operation["requestBody"] = _body(_JSON, schemas.asked(made.order))
    elif made.form is not None:
        operation["requestBody"] = _body("multipart/form-data", schemas.asked(made.form))
    success = _success(made.success, made.content, schemas)
    operation["responses"] = {str(made.success.status.value): success} | {
        str(status.value): {"$ref": f"#/components/responses/{FAILURES[status].name}"}
        for status in made.fails
    }
    return operation


def _texts(of: Any, place: str, schemas: Schemas) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for key, (schema, required) in ({} if of is None else schemas.texts(of)).items():
        name = key.title().replace("_", "-") if place == "header" else key
        said = {"description": schema.pop("description")} if "description" in schema else {}
        found.append({"name": name, "in": place, "required": required, **said, "schema": schema})
    return found


def _body(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema}}}


def _success(success: Success, content: Any, schemas: Schemas) -> dict[str, Any]:
    answer = _answer(success.meaning, success.headers)
    if content is not None:
        answer["content"] = {_JSON: {"schema": schemas.answered(content)}}
    return answer


def _answer(meaning: str, headers: Mapping[str, str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": meaning}
    if headers:
        answer["headers"] = {
            name: {"description": said, "schema": {"type": "string"}}
            for name, said in headers.items()
        }
    return answer


def _failure(failure: Failure, error: dict[str, Any]) -> dict[str, Any]:
    answer = _answer(failure.meaning, failure.headers)
    common = {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS}
    answer["headers"] = answer.get("headers", {}) | common
    return answer | {"content": {_JSON: {"schema": error}}}


def _tag(topic: Topic) -> str:
    return topic.name.lower()
