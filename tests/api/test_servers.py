"""`/api/servers`, `/api/servers/{uuid}` and what is below it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.node import NOW, UUID, FakeServer, House, Socket
from tests.support.logged_errors import LoggedErrors
from wingsd.errors import BadRequest, Conflict, EnvironmentFailed, StorageError
from wingsd.servers.power_states import PowerAction
from wingsd.transfers.outgoing.request import TransferRequest

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"


async def test_all_servers_are_told(house: House) -> None:
    reply = await house.call("GET", "servers")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == [{"state": "offline", "configuration": {"uuid": UUID}}]


async def test_one_is_told_however_its_uuid_is_written(house: House) -> None:
    reply = await house.call("GET", f"servers/{UUID.upper()}")
    assert (reply.status, reply.json) == (200, house.server.details())


async def test_a_server_is_created_after_the_answer(house: House) -> None:
    content = {"uuid": OTHER.upper(), "start_on_completion": True}
    reply = await house.call("POST", "servers", content)
    assert (reply.status, reply.text) == (202, "")
    assert house.calls == [("create", OTHER, True)]


@pytest.mark.parametrize("error", [Conflict("it is being created"), RuntimeError("a mistake")])
async def test_a_creation_that_cannot_even_begin_is_logged(
    house: House, logged_errors: LoggedErrors, error: Exception
) -> None:
    house.calls.faults["create"] = error
    reply = await house.call("POST", "servers", {"uuid": OTHER})
    assert reply.status == 202
    assert house.calls == [("create", OTHER, False)]
    assert [line for line in logged_errors.lines if line.startswith(f"{OTHER}: creation failed")]
    logged_errors.take(RuntimeError)


async def test_one_that_is_here_is_not_created_again(house: House) -> None:
    reply = await house.call("POST", "servers", {"uuid": UUID})
    assert (reply.status, reply.json["code"]) == (409, "server-already-exists")
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
async def test_what_cannot_be_created_is_told_why(
    house: House, content: object, status: int, detail: str
) -> None:
    reply = await house.call("POST", "servers", content)
    assert reply.status == status
    assert reply.json["detail"].startswith(detail)
    assert house.calls == []


async def test_a_server_is_deleted_when_its_transfers_have_made_way(house: House) -> None:
    reply = await house.call("DELETE", f"servers/{UUID.upper()}")
    assert (reply.status, reply.text) == (204, "")
    made_way = [("release", "out", UUID), ("release", "in", UUID)]
    # Told only then: a daemon that dies before leaves what it sent to the next.
    assert house.calls == [*made_way, ("delete", UUID), ("deleted", "out", UUID)]
    assert (await house.call("GET", f"servers/{UUID}")).status == 404


async def test_what_is_not_here_is_not_deleted(house: House) -> None:
    reply = await house.call("DELETE", f"servers/{OTHER}")
    assert reply.status == 404
    assert reply.json["code"] == "server-not-found"


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
async def test_what_cannot_be_known_yet_is_said_so(house: House, method: str, path: str) -> None:
    house.servers.loaded = False
    reply = await house.call(method, f"servers{path}", {"uuid": OTHER})
    assert (reply.status, reply.json["code"]) == (503, "servers-not-loaded")


async def test_what_is_known_already_answers(house: House) -> None:
    house.servers.loaded = False
    assert (await house.call("GET", f"servers/{UUID}")).status == 200
    assert (await house.call("GET", "system")).status == 200


HOME = f"servers/{UUID}"
URL = "https://there.example.com:8080/api/transfers"
ORDER = {
    "server_id": UUID,
    "url": URL,
    "token": "Bearer a.b.c",
    "server": {"uuid": UUID, "start_on_completion": False},
}
WORDS = 'should be one of "stop", "start", "restart", "kill"'


@pytest.mark.parametrize("path", ["power", "commands", "logs", "sync", "transfer", "ws"])
async def test_an_unknown_server_is_a_404(house: House, path: str) -> None:
    method = "GET" if path in ("logs", "ws") else "POST"
    reply = await house.call(method, f"servers/{OTHER}/{path}", {})
    assert reply.status == 404
    assert reply.json["code"] == "server-not-found"


# Power


@pytest.mark.parametrize("action", list(PowerAction))
async def test_power_is_answered_before_it_is_done(house: House, action: PowerAction) -> None:
    reply = await house.call("POST", f"{HOME}/power", {"action": action.value})
    assert (reply.status, reply.text) == (202, "")
    assert house.calls == [("check_power", action), ("power", action, 30)]
    assert not house.server.powered.called
    house.server.powered.errback(EnvironmentFailed("told by the server itself"))


@pytest.mark.parametrize(("asked", "waits"), [(0, 0), (300, 300), (301, 30), (-1, 30)])
async def test_power_may_wait_for_what_goes_on(house: House, asked: int, waits: int) -> None:
    await house.call("POST", f"{HOME}/power", {"action": "stop", "wait_seconds": asked})
    assert house.calls[-1] == ("power", PowerAction.STOP, waits)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("Cannot start or restart a server that is suspended."), 400),
        (Conflict("the server is being transferred"), 409),
    ],
)
async def test_what_cannot_be_done_now_is_said_at_once(
    house: House, error: BadRequest | Conflict, status: int
) -> None:
    house.calls.faults["check_power"] = error
    reply = await house.call("POST", f"{HOME}/power", {"action": "start"})
    assert (reply.status, reply.json["code"]) == (status, error.code)
    assert house.calls == [("check_power", PowerAction.START)]


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        ({"action": "explode"}, 422, WORDS),
        ({"action": "START"}, 422, WORDS),
        ({"action": 5}, 400, "action: expected a text, found a whole number"),
        ({}, 400, "action: is missing"),
        ({"action": "stop", "wait_seconds": "long"}, 400, "wait_seconds: expected a whole number"),
    ],
)
async def test_what_is_no_power_action_is_refused(
    house: House, content: dict[str, Any], status: int, says: str
) -> None:
    reply = await house.call("POST", f"{HOME}/power", content)
    assert reply.status == status
    assert says in " ".join(reply.json.values())
    assert house.calls == []


# Commands, logs, settings


async def test_commands_are_typed_in_order(house: House) -> None:
    content = {"commands": ["say hello", "", "stop"]}
    reply = await house.call("POST", f"{HOME}/commands", content)
    assert (reply.status, reply.text) == (204, "")
    assert house.calls == [("command", "say hello"), ("command", ""), ("command", "stop")]


async def test_a_stopped_server_takes_no_commands(
    house: House, logged_errors: LoggedErrors
) -> None:
    house.server.online = False
    reply = await house.call("POST", f"{HOME}/commands", {"commands": ["one", "two"]})
    assert reply.status == 502
    assert reply.json["code"] == "server-not-running"
    assert house.calls == [("command", "one")]
    assert not [line for line in logged_errors.lines if "failed" in line]


async def test_commands_are_a_list_of_texts(house: House) -> None:
    for content in ({"commands": "stop"}, {"commands": ["stop", None]}, {}):
        reply = await house.call("POST", f"{HOME}/commands", content)
        assert (reply.status, reply.json["detail"][:8]) == (400, "commands")
    assert house.calls == []


@pytest.mark.parametrize(
    ("query", "lines"),
    [("", 100), ("?size=3", 3), ("?lines=4", 4), ("?size=5&lines=4", 5), ("?size=9999", 100)],
)
async def test_the_console_can_be_read(house: House, query: str, lines: int) -> None:
    reply = await house.call("GET", f"{HOME}/logs{query}")
    assert (reply.status, reply.json) == (200, {"data": house.server.lines[-lines:]})


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5", "9" * 6000])
async def test_a_number_of_lines_is_a_number(house: House, size: str) -> None:
    reply = await house.call("GET", f"{HOME}/logs?size={size}")
    assert reply.status == 400
    assert reply.json["detail"] == "size: expected a number of lines from 1 to 100"


async def test_settings_are_fetched_anew(house: House) -> None:
    # The Panel sends no body at all.
    reply = await house.call("POST", f"{HOME}/sync")
    assert (reply.status, reply.text, house.calls) == (204, "", [("sync",)])


# Transfers to other nodes


async def test_a_transfer_is_started(house: House, logged_errors: LoggedErrors) -> None:
    reply = await house.call("POST", f"{HOME}/transfer", ORDER)
    assert (reply.status, reply.text) == (202, "")
    assert house.calls == [("start", UUID, TransferRequest(URL, "Bearer a.b.c"))]
    reply = await house.call("POST", f"{HOME}/transfer", ORDER)
    assert reply.status == 409
    assert reply.json["error"] == "A transfer is already in progress for this server."
    assert not [line for line in logged_errors.lines if "backups" in line]
    assert not [line for line in logged_errors.lines if "a.b.c" in line]


async def test_the_format_and_level_that_calagopus_asks_for_are_handed_on(house: House) -> None:
    asked = {"archive_format": "tar_zstd", "compression_level": "good_speed"}
    reply = await house.call("POST", f"{HOME}/transfer", ORDER | asked)
    assert reply.status == 202
    assert house.calls == [
        ("start", UUID, TransferRequest(URL, "Bearer a.b.c", "tar_zstd", "good_speed"))
    ]


async def test_the_streams_that_it_asks_for_are_handed_on(house: House) -> None:
    assert (
        await house.call("POST", f"{HOME}/transfer", ORDER | {"multiplex_streams": 3})
    ).status == 202
    assert house.calls == [("start", UUID, TransferRequest(URL, "Bearer a.b.c", streams=3))]
    house.calls.clear()
    for wrong in (-1, "x"):
        reply = await house.call("POST", f"{HOME}/transfer", ORDER | {"multiplex_streams": wrong})
        assert reply.status == 400
        assert reply.json["detail"].startswith("multiplex_streams: ")
    assert house.calls == []


async def test_null_asks_for_nothing(house: House) -> None:
    asked = {"archive_format": None, "compression_level": None, "multiplex_streams": None}
    await house.call("POST", f"{HOME}/transfer", ORDER | asked)
    assert house.calls == [("start", UUID, TransferRequest(URL, "Bearer a.b.c"))]


async def test_backups_are_handed_on_once_each(house: House) -> None:
    asked = {"backups": [OTHER.upper(), UUID, OTHER]}
    assert (await house.call("POST", f"{HOME}/transfer", ORDER | asked)).status == 202
    order = TransferRequest(URL, "Bearer a.b.c", backups=(OTHER, UUID))
    assert house.calls == [("start", UUID, order)]


@pytest.mark.parametrize("asked", [True, False, None])
async def test_whether_they_are_to_be_deleted_here_is_handed_on(
    house: House, asked: bool | None
) -> None:
    body = ORDER | {"backups": [OTHER], "delete_backups": asked}
    assert (await house.call("POST", f"{HOME}/transfer", body)).status == 202
    order = TransferRequest(URL, "Bearer a.b.c", backups=(OTHER,), delete_backups=bool(asked))
    assert house.calls == [("start", UUID, order)]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"server": {"uuid": OTHER}}, "server.uuid: expected the UUID in the path"),
        ({"server": {"uuid": "x"}}, "server.uuid: expected the UUID in the path"),
        ({"url": None, "token": 5}, "url: is missing and has no default; token: expected a text"),
        ({"backups": "all"}, "backups: expected a list"),
        ({"backups": ["../../etc"]}, "backups: expected the UUIDs of backups"),
        ({"archive_format": 7}, "archive_format: expected a text"),
        ({"delete_backups": "yes"}, "delete_backups: expected true or false"),
    ],
)
async def test_an_order_that_makes_no_sense_is_told_why(
    house: House, changes: dict[str, Any], detail: str
) -> None:
    reply = await house.call("POST", f"{HOME}/transfer", ORDER | changes)
    assert reply.status == 400
    assert detail in reply.json["detail"]
    assert house.calls == []


async def test_an_address_that_is_none_is_the_senders_to_refuse(house: House) -> None:
    house.calls.faults["start"] = BadRequest("no address", "url: expected https://")
    reply = await house.call("POST", f"{HOME}/transfer", ORDER | {"url": "x"})
    assert (reply.status, reply.json["detail"]) == (400, "url: expected https://")


async def test_other_panels_leave_some_of_it_out(house: House) -> None:
    order = {"url": "http://x", "token": "Bearer x", "backups": [], "archive_format": "tar"}
    assert (await house.call("POST", f"{HOME}/transfer", order)).status == 202


async def test_a_transfer_is_cancelled_once(house: House) -> None:
    house.sender.servers = (UUID,)
    reply = await house.call("DELETE", f"{HOME}/transfer")
    assert (reply.status, reply.text) == (202, "")
    reply = await house.call("DELETE", f"{HOME}/transfer")
    assert reply.status == 409
    assert reply.json["error"] == "Server is not currently being transferred."
    assert house.calls == [("cancel", "out", UUID), ("cancel", "out", UUID)]


# The WebSocket


async def test_a_browser_gets_to_the_socket_without_a_header(house: House) -> None:
    reply = await house.call("GET", f"{HOME}/ws", Authorization=None)
    assert (reply.status, reply.text) == (200, f"the socket of {UUID}")


async def test_of_a_server_that_has_moved_only_the_socket_can_still_be_opened(
    house: House,
) -> None:
    reply = await house.call("GET", f"servers/{OTHER}/ws", Authorization=None)
    assert reply.status == 404
    house.moved[OTHER] = Socket(FakeServer(OTHER, house.calls))
    reply = await house.call("GET", f"servers/{OTHER}/ws", Authorization=None)
    assert (reply.status, reply.text) == (200, f"the socket of {OTHER}")
    reply = await house.call("GET", f"servers/{OTHER}")
    assert reply.status == 404


async def test_tokens_are_denied_from_now_on(house: House) -> None:
    reply = await house.call("POST", f"{HOME}/ws/deny", {"jtis": ["a", "b"]})
    assert (reply.status, reply.text) == (204, "")
    assert house.calls == [("deny", ("a", "b"), NOW), ("note denied", ("a", "b"))]


async def test_also_before_the_servers_are_known(house: House) -> None:
    house.servers.loaded = False
    reply = await house.call("POST", f"servers/{OTHER}/ws/deny", {"jtis": ["a"]})
    assert (reply.status, house.calls[0]) == (204, ("deny", ("a",), NOW))


async def test_what_would_be_forgotten_is_refused_for_now_and_the_panel_told(
    house: House,
) -> None:
    house.calls.faults["note denied"] = StorageError("the disk is full")
    reply = await house.call("POST", f"{HOME}/ws/deny", {"jtis": ["a"]})
    assert (reply.status, reply.json["detail"]) == (500, "the disk is full")
    assert house.calls[0] == ("deny", ("a",), NOW)
