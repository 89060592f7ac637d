"""The document: what each path declares, put into the form of OpenAPI 3.1. Pure.

https://spec.openapis.org/oas/v3.1.0 is the source of the form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wingsd.web.answers import Error
from wingsd.web.calls import Access, Call, Success, Topic
from wingsd.web.openapi.schemas import Schemas
from wingsd.web.openapi.words import FAILURES, HEADERS, INFO, PARAMETERS, SCHEMES, Failure

__all__ = ["document"]

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
