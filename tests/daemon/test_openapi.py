"""A real daemon answers as its own /openapi.json says, and that has all it can be asked.

schemathesis, and what is of it in fuzz/, is imported by the tests that use it: it takes most of a
second, and each process of a run imports this module.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from twisted.internet.threads import deferToThread

from tests.support.receiving_node import ReceivingNode
from wingsd.api.routes import CALLS, interface
from wingsd.http.operations import parse

#: Requests of each call, good ones and bad ones. `make fuzz` makes them for as long as one likes.
EXAMPLES = 3
SEED = 20
METHODS = {"get", "post", "put", "patch", "delete", "options"}
ORDERED = [
    (path, method)
    for path, calls in CALLS.items()
    for method, made in calls.items()
    if made.body is not None
]


@pytest.mark.promise("answers-fit-the-interface")
async def test_every_answer_is_described_by_the_document(daemon: ReceivingNode) -> None:
    from fuzz.interface import prepared  # noqa: PLC0415

    asker = await prepared(daemon)
    asked = await deferToThread(asker.ask, EXAMPLES, SEED)
    assert asked >= 10 * EXAMPLES
    assert not daemon.lines_with("Traceback")


async def test_the_document_is_valid_and_has_each_method_and_path(daemon: ReceivingNode) -> None:
    import schemathesis  # noqa: PLC0415

    from fuzz.interface import SERVER, WITHIN, prepared  # noqa: PLC0415

    asker = await prepared(daemon)
    served: dict[str, Any] = await deferToThread(asker.document)
    assert served == interface()
    assert served["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(served).validate()
    for path, item in served["paths"].items():
        url = asker.url + path.replace("{uuid}", SERVER)
        answer = await deferToThread(requests.options, url, timeout=WITHIN)
        methods = {name.upper() for name in METHODS & item.keys()} | {"OPTIONS"}
        # HEAD of a file is its GET.
        assert set(answer.headers["Allow"].split(", ")) - {"HEAD"} == methods - {"HEAD"}, path


@cache
def described() -> Any:
    import schemathesis  # noqa: PLC0415

    return schemathesis.openapi.from_dict(interface())


@pytest.mark.parametrize(("path", "method"), ORDERED)
def test_a_body_that_the_document_allows_can_be_read(path: str, method: str) -> None:
    from schemathesis import GenerationMode  # noqa: PLC0415
    from schemathesis.core import NotSet  # noqa: PLC0415

    made = CALLS[path][method]
    cases = described()[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE)

    @settings(
        max_examples=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def one(case: Any) -> None:
        if isinstance(case.body, NotSet):
            assert not made.needs_body
        else:
            assert isinstance(parse(json.dumps(case.body).encode(), made.body), made.body)

    one()
