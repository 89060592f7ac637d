"""docs/openapi.yml is what a real daemon answers: it has every call, and every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest_twisted
import requests
import yaml
from twisted.internet.threads import deferToThread
from twisted.python.reflect import prefixedMethodNames
from twisted.web.resource import Resource

from fuzz.interface import DOCUMENT, SERVER, WITHIN, prepared
from tests.daemon.house import House
from wingsd.web import api
from wingsd.web.endpoint import Public

#: Requests of each call, good ones and bad ones. `make fuzz` makes them for as long as one likes.
EXAMPLES = 12
SEED = 20
METHODS = {"get", "post", "put", "patch", "delete", "options"}


def documented() -> dict[str, set[str]]:
    """Return the methods of each path."""
    paths: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())["paths"]
    return {path: {name.upper() for name in METHODS & item.keys()} for path, item in paths.items()}


def endpoints(kind: type[Any] = Public) -> Iterator[type[Any]]:
    """Yield the classes of all paths that can be called."""
    for each in kind.__subclasses__():
        yield from endpoints(each)
        methods = vars(each).get("methods") or prefixedMethodNames(each, "handle_")
        if methods and each.__module__.startswith("wingsd.web."):
            yield each


@pytest_twisted.ensureDeferred
async def test_every_answer_is_one_that_the_document_has(house: House) -> None:
    asker = await prepared(house)
    asked = await deferToThread(asker.ask, EXAMPLES, SEED)
    assert asked >= 10 * EXAMPLES
    assert not [line for line in house.log if "Traceback" in line]


@pytest_twisted.ensureDeferred
async def test_the_document_has_every_method_of_every_path(house: House) -> None:
    asker = await prepared(house)
    for path, methods in documented().items():
        url = asker.url + path.replace("{uuid}", SERVER)
        answer = await deferToThread(requests.options, url, timeout=WITHIN)
        assert set(answer.headers["Allow"].split(", ")) == methods | {"OPTIONS"}, path


def test_the_document_has_every_path() -> None:
    assert issubclass(api.Api, Resource)  # It has made all of them known.
    assert len(documented()) == len(set(endpoints()))
