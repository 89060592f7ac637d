"""`/api/servers` and `/api/servers/{uuid}`."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.api.node import UUID, House
from tests.logs import LoggedErrors
from wingsd.errors import Conflict

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


@pytest_twisted.ensureDeferred
async def test_all_servers_are_told(house: House) -> None:
    reply = await house.call("GET", "servers")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == [{"state": "offline", "configuration": {"uuid": UUID}}]


@pytest_twisted.ensureDeferred
async def test_one_is_told_however_its_uuid_is_written(house: House) -> None:
    reply = await house.call("GET", f"servers/{UUID.upper()}")
    assert (reply.status, reply.json) == (200, house.server.details())


@pytest_twisted.ensureDeferred
async def test_a_server_is_created_after_the_answer(house: House) -> None:
    content = {"uuid": OTHER.upper(), "start_on_completion": True}
    reply = await house.call("POST", "servers", content)
    assert (reply.status, reply.text) == (202, "")
    assert house.calls == [("create", OTHER, True)]


@pytest.mark.parametrize("error", [Conflict("it is being created"), RuntimeError("a mistake")])
@pytest_twisted.ensureDeferred
async def test_a_creation_that_cannot_even_begin_is_logged(
    house: House, logged_errors: LoggedErrors, error: Exception
) -> None:
    house.calls.faults["create"] = error
    reply = await house.call("POST", "servers", {"uuid": OTHER})
    assert reply.status == 202
    assert house.calls == [("create", OTHER, False)]
    assert [line for line in logged_errors.lines if line.startswith(f"{OTHER}: could not be")]
    logged_errors.take(RuntimeError)


@pytest_twisted.ensureDeferred
async def test_one_that_is_here_is_not_created_again(house: House) -> None:
    reply = await house.call("POST", "servers", {"uuid": UUID})
    assert (reply.status, reply.json["error"]) == (409, "This server is already on this node.")
    assert house.calls == []


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        ({"uuid": "x"}, 422, "uuid: expected the UUID of a server"),
        ({"uuid": f"../{OTHER}"}, 422, "uuid: expected the UUID of a server"),
        ({"uuid": 5}, 400, "uuid: expected a text, found a whole number"),
        ({}, 400, "uuid: is missing"),
        ({"uuid": OTHER, "start_on_completion": "no"}, 400, "start_on_completion: expected true"),
        (b"nonsense", 400, "send a JSON object"),
        (None, 400, "send a JSON object"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_created_is_told_why(
    house: House, content: object, status: int, detail: str
) -> None:
    reply = await house.call("POST", "servers", content)
    assert reply.status == status
    assert reply.json["detail"].startswith(detail)
    assert house.calls == []


@pytest_twisted.ensureDeferred
async def test_a_server_is_deleted_when_its_transfers_have_made_way(house: House) -> None:
    reply = await house.call("DELETE", f"servers/{UUID.upper()}")
    assert (reply.status, reply.text) == (204, "")
    made_way = [("release", "out", UUID), ("release", "in", UUID)]
    # Told only then: a daemon that dies before leaves what it sent to the next.
    assert house.calls == [*made_way, ("delete", UUID), ("deleted", "out", UUID)]
    assert (await house.call("GET", f"servers/{UUID}")).status == 404


@pytest_twisted.ensureDeferred
async def test_what_is_not_here_is_not_deleted(house: House) -> None:
    reply = await house.call("DELETE", f"servers/{OTHER}")
    assert reply.status == 404
    assert reply.json["error"] == "The requested resource was not found on this instance."


@pytest_twisted.ensureDeferred
async def test_one_that_only_arrives_is_gone_with_its_transfer(house: House) -> None:
    house.receiver.servers = (OTHER,)
    assert (await house.call("DELETE", f"servers/{OTHER}")).status == 204
    assert OTHER not in house.receiver.servers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("GET", f"/{OTHER}"),
        ("DELETE", f"/{OTHER}"),
        ("POST", f"/{OTHER}/power"),
        ("POST", f"/{OTHER}/transfer"),
        ("GET", f"/{OTHER}/ws"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_known_yet_is_said_so(house: House, method: str, path: str) -> None:
    house.servers.loaded = False
    reply = await house.call(method, f"servers{path}", {"uuid": OTHER})
    assert (reply.status, reply.json["error"][:25]) == (503, "this node has not loaded ")


@pytest_twisted.ensureDeferred
async def test_what_is_known_already_answers(house: House) -> None:
    house.servers.loaded = False
    assert (await house.call("GET", f"servers/{UUID}")).status == 200
    assert (await house.call("GET", "system")).status == 200
