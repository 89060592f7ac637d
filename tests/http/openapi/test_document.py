"""The document of the calls that this node has, and that the one in docs/ is it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wingsd
from handbook.openapi import text
from wingsd.api.routes import interface

DOCS = Path(wingsd.__file__).parent.parent / "docs"


def operation(path: str, method: str) -> Any:
    found: dict[str, Any] = interface()["paths"][path][method.lower()]
    return found


def test_the_one_for_people_is_current() -> None:
    assert (DOCS / "openapi.yml").read_text() == text(), "make openapi writes it"


def test_a_call_is_described_by_its_declaration() -> None:
    made = operation("/api/servers/{uuid}/logs", "GET")
    assert made["operationId"] == "get_logs"
    assert made["security"] == [{"panel": []}]
    assert [parameter["name"] for parameter in made["parameters"]] == ["size", "lines"]
    assert list(made["responses"]) == ["200", "400", "401", "403", "404", "503"]
    answer = made["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ConsoleLines"}


def test_what_has_no_body_has_none() -> None:
    made = operation("/api/servers/{uuid}", "DELETE")
    assert "requestBody" not in made
    assert made["responses"]["204"] == {"description": "The server is deleted."}


def test_a_body_that_may_be_empty_is_not_required() -> None:
    assert operation("/api/servers/{uuid}/sync", "POST")["requestBody"]["required"] is False
    assert operation("/api/servers/{uuid}/power", "POST")["requestBody"]["required"] is True


def test_plain_text_is_a_content_of_its_own() -> None:
    answer = operation("/api/servers/{uuid}/logs", "GET")["responses"]["200"]["content"]
    assert list(answer) == ["application/json", "text/plain"]


def test_an_upload_is_a_form_with_a_token_of_its_own() -> None:
    made = operation("/api/transfers", "POST")
    assert list(made["requestBody"]["content"]) == ["multipart/form-data"]
    assert made["security"] == [{"transfer": []}]
    assert operation("/api/transfers", "OPTIONS")["security"] == []


def test_every_failure_has_the_form_of_an_error() -> None:
    components = interface()["components"]
    for failure in components["responses"].values():
        schema = failure["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Error"}
        reference = failure["headers"]["X-Request-Id"]
        assert reference == {"$ref": "#/components/headers/X-Request-Id"}
    assert components["headers"]["X-Request-Id"]["required"]
    assert components["schemas"]["Error"]["required"] == ["error", "code", "request_id"]
