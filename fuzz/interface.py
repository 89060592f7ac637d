"""The node's HTTP interface: requests that its /openapi.json allows, and many others.

Every answer must be one that the document has for that call; so there is no 5xx but those, and
every error is JSON with its words. Nobody may do anything without the token that it names.
`python -m fuzz interface` asks a daemon of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from fuzz.findings import Finding
from tests.support import server_settings
from tests.support.receiving_node import ReceivingNode
from wingsd.auth.tokens import direct_token

__all__ = ["SERVER", "WITHIN", "InterfaceClient", "prepared"]

#: The server that is on the node; another one may be sent to it.
SERVER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
#: Seconds for an answer.
WITHIN = 20

# The answer to HEAD has the headers of a body, and none.
_HEAD_CHECKS = [status_code_conformance, response_headers_conformance]
_CHECKS = [*_HEAD_CHECKS, content_type_conformance, response_schema_conformance]
#: Of the choices among tokens those that are none, or forged; and what such a request gets.
NO_GOOD = 1
_SHUT = (None, 401, 403)
#: Paths that the node's family does not have: 404 with any token.
_OF_OTHERS = ("/download/directory", "/download/files")
_FORGED = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."
_ELSEWHERE = "http://127.0.0.1:1/api/transfers"


@attrs.frozen
class InterfaceClient:
    """Client of the node at `url`; `panel` is its token, `transfer` makes one for an upload."""

    url: str
    panel: str
    transfer: Callable[[], str]

    def document(self) -> dict[str, Any]:
        """Return the node's /openapi.json. Blocks."""
        answer = requests.get(f"{self.url}/openapi.json", timeout=WITHIN)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ask(self, examples: int, seed: int) -> int:
        """Send that many requests of each call and kind, and return their number.

        It blocks. Raises `Finding`, or what a check of schemathesis raises.
        """
        schema = schemathesis.openapi.from_dict(self.document())
        found: list[Any] = list(schema.get_all_operations())
        operations = [each.ok() for each in found]
        # After that, all would be about a server that is not there.
        operations.sort(key=lambda each: each.method == "delete" and each.path.endswith("{uuid}"))
        return sum(self._ask(operation, examples, seed) for operation in operations)

    def _ask(self, operation: Any, examples: int, seed: int) -> int:
        count = 0
        cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        if operation.body or operation.query or operation.path_parameters:
            cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @seeded(seed)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, ours=st.integers(0, 3), token=st.integers(0, 7))
        def one(case: Any, ours: int, token: int) -> None:
            nonlocal count
            _settle(case, ours=ours > 0)
            count += 1
            status = self._judge(case, self._authorization(case, token))
            closed = operation.definition.raw["security"]
            is_absent = status == 404 and case.path in _OF_OTHERS  # noqa: PLR2004
            if closed and token <= NO_GOOD and status not in _SHUT and not is_absent:
                raise Finding(f"{case.method} {case.path}: {status} for one without a good token")

        one()
        return count

    def _authorization(self, case: Any, choice: int) -> str | None:
        if choice <= NO_GOOD:
            return _FORGED if choice else None
        if case.path == "/api/transfers":
            return f"Bearer {self.transfer()}"
        if case.path.endswith("/by-hand"):
            return f"Bearer {direct_token(SERVER, self.panel, time.time(), time.time() + WITHIN)}"
        return f"Bearer {self.panel}"

    def _judge(self, case: Any, authorization: str | None) -> int | None:
        """Send a request and return the answer's status, None if it cannot be sent."""
        case.headers = {} if case.headers is None else case.headers
        case.headers.pop("Authorization", None)
        headers = {} if authorization is None else {"Authorization": authorization}
        # Who numbers streams and is no node of this kind gets no answer where it is refused.
        headers["User-Agent"] = "wingsd/fuzz"
        try:
            response = case.call(base_url=self.url, headers=headers, timeout=WITHIN)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL):
            return None
        error = response.status_code >= 400  # noqa: PLR2004 - as HTTP has them
        has_body = response.request.method != "HEAD"
        if error and has_body and not isinstance(response.json().get("error"), str):
            raise Finding(f"{case.method} {case.path}: {response.status_code} without its words")
        case.validate_response(response, checks=_CHECKS if has_body else _HEAD_CHECKS)
        status: int = response.status_code
        return status


def _settle(case: Any, *, ours: bool) -> None:
    """Direct some requests at the existing server, and none to other machines."""
    named = case.path_parameters or {}
    if "uuid" in named:
        if ours:
            named["uuid"] = SERVER
        # A client resolves these, and asks for another path.
        assume(named["uuid"] not in (".", ".."))
    if isinstance(case.body, dict):
        if ours and case.path == "/api/servers" and "uuid" in case.body:
            case.body["uuid"] = SERVER
        if str(case.body.get("url", "")).lower().startswith("http"):
            case.body["url"] = _ELSEWHERE


async def prepared(daemon: ReceivingNode) -> InterfaceClient:
    """Start a node with a server; return its client."""
    # One that waits for others is not to wait for longer than a client here.
    daemon.transfers = {"streams": {"within": 1}}
    await daemon.start_loaded(api={"ssl": {"enabled": False}})
    daemon.node.address = daemon.url
    await daemon.panel.create_server_on(daemon.node, server_settings(SERVER))
    await daemon.panel.called("/install")
    return InterfaceClient(daemon.url, daemon.node.token, daemon.token)


async def _run(seconds: int) -> None:
    began, count, seed = time.monotonic(), 0, time.time_ns() % 1_000_000
    while time.monotonic() - began < seconds:
        # A new daemon each time: the server is gone at the end of a round.
        with tempfile.TemporaryDirectory(prefix="wingsd-fuzz-") as directory:
            daemon = ReceivingNode(Path(directory))
            try:
                asker = await prepared(daemon)
                count += await deferToThread(asker.ask, 150, seed)
            except BaseException:
                print(f"found with the seed {seed}; the node's last words:")
                print("\n".join(daemon.log[-20:]))
                raise
            finally:
                await daemon.close()
        seed += 1
    print(f"interface: {count} requests in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(_run(int(sys.argv[1]))))
