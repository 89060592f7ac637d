"""`/api/servers`, `/api/servers/{uuid}`, consoles, and power over several servers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.api.node import NOW, UUID, ApiNode, FakeServer
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from wingsd.auth.tokens import user_key
from wingsd.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    NodeInMaintenance,
    ServerBusy,
    StateDatabaseError,
    StorageError,
    WingsdError,
)
from wingsd.panel.schemas import Stop
from wingsd.servers.installations import InstallOptions
from wingsd.servers.power_states import PowerAction
from wingsd.transfers.outgoing.source import TransferRequest

OTHER = "1b0e7a6e-95c1-4a5b-8a53-7f6c5d2e4b11"
USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"
HOME = f"servers/{UUID}"
URL = "https://there.example.com:8080/api/transfers"
ORDER = {
    "server_id": UUID,
    "url": URL,
    "token": "Bearer a.b.c",
    "server": {"uuid": UUID, "start_on_completion": False},
}
WORDS = 'should be one of "stop", "start", "restart", "kill"'


async def test_all_servers_are_listed(node: ApiNode) -> None:
    reply = await node.call("GET", "servers")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == [{"state": "offline", "configuration": {"uuid": UUID}}]


@pytest.mark.parametrize(
    ("content", "starts", "options"),
    [
        ({"start_on_completion": True}, True, InstallOptions()),
        ({"skip_scripts": True}, False, InstallOptions(skip_script=True)),
    ],
)
async def test_a_creation_is_passed_on(
    node: ApiNode, content: dict[str, Any], starts: bool, options: InstallOptions
) -> None:
    reply = await node.call("POST", "servers", {"uuid": OTHER.upper()} | content)
    assert (reply.status, reply.text) == (202, "")
    assert node.calls == [("create", OTHER, starts, options)]


@pytest.mark.promise("maintenance-takes-no-servers")
async def test_a_node_in_maintenance_creates_no_server(node: ApiNode) -> None:
    node.receiver.refusal = NodeInMaintenance("new disks")
    reply = await node.call("POST", "servers", {"uuid": OTHER})
    assert (reply.status, reply.json["code"]) == (409, "node-in-maintenance")
    assert "new disks" in reply.json["error"]
    assert node.calls == []


async def test_an_existing_server_is_not_created_again(node: ApiNode) -> None:
    reply = await node.call("POST", "servers", {"uuid": UUID})
    assert (reply.status, reply.json["code"]) == (409, "server-already-exists")
    assert node.calls == []


#: Contents of calls that are not valid, with the status and words of the answer.
INVALID: dict[str, list[tuple[object, int, str]]] = {
    "servers": [
        ({"uuid": "x"}, 422, "uuid: expected the UUID of a server"),
        ({"uuid": 5}, 400, "uuid: expected a text, found a whole number"),
        ({}, 400, "uuid: is missing"),
        (b"nonsense", 400, "send a JSON object"),
        (None, 400, "send a JSON object"),
    ],
    f"{HOME}/power": [
        ({"action": "explode"}, 422, WORDS),
        ({}, 400, "action: is missing"),
        ({"action": "stop", "wait_seconds": "long"}, 400, "wait_seconds: expected a whole number"),
    ],
    f"{HOME}/commands": [
        ({"commands": "stop"}, 400, "commands: expected a list"),
        ({}, 400, "commands: is missing"),
    ],
    f"{HOME}/sync": [
        (
            {"server": {"settings": {"uuid": OTHER}}},
            400,
            "server.settings.uuid: expected the UUID",
        ),
        ({"server": {"settings": {}}}, 400, "settings.uuid: is missing"),
        (
            {"server": {"uuid": UUID, "build": {"memory_limit": "much"}}},
            400,
            "build.memory_limit: expected a whole",
        ),
    ],
    f"{HOME}/transfer": [
        (ORDER | {"server": {"uuid": OTHER}}, 400, "server.uuid: expected the UUID in the path"),
        (ORDER | {"server": {"uuid": "x"}}, 400, "server.uuid: expected the UUID in the path"),
        (
            ORDER | {"url": None, "token": 5},
            400,
            "url: is missing and has no default; token: expected a text",
        ),
        (ORDER | {"backups": ["../../etc"]}, 400, "backups: expected the UUIDs of backups"),
        (ORDER | {"multiplex_streams": -1}, 400, "multiplex_streams: "),
    ],
    "servers/power": [
        ({"servers": {"type": "all"}, "action": "explode"}, 422, ""),
        ({"servers": {"type": "some"}, "action": "start"}, 422, ""),
        ({"servers": {"type": "uuids", "uuids": ["x"]}, "action": "start"}, 422, ""),
        ({"servers": [5], "action": "start"}, 422, ""),
    ],
    "deauthorize-user": [
        ({}, 400, "user: is missing"),
        ({"json": {"servers": [UUID]}}, 400, "json.user: is missing"),
        ({"user": "somebody"}, 422, "user: expected the UUID of a user"),
        ({"user": USER, "servers": ["all"]}, 422, "servers: expected the UUIDs of servers"),
    ],
}


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [(path, *case) for path, cases in INVALID.items() for case in cases],
)
async def test_invalid_content_is_refused(
    node: ApiNode, path: str, content: object, status: int, words: str
) -> None:
    reply = await node.call("POST", path, content)
    assert reply.status == status
    assert words in " ".join(reply.json.values())
    assert node.calls == []


@pytest.mark.parametrize(
    ("call", "error", "path", "content", "status"),
    [
        ("create", StateDatabaseError("the disk is full"), "servers", {"uuid": OTHER}, 500),
        ("check_power", Conflict("it is transferred"), f"{HOME}/power", {"action": "start"}, 409),
        ("start", BadRequest("no address", "url: expected"), f"{HOME}/transfer", ORDER, 400),
    ],
)
async def test_the_error_of_the_node_is_the_answer(
    node: ApiNode, call: str, error: WingsdError, path: str, content: object, status: int
) -> None:
    node.calls.faults[call] = error
    reply = await node.call("POST", path, content)
    assert (reply.status, reply.json["code"]) == (status, error.code)
    assert reply.json.get("detail", "") == error.detail
    assert [name for name, *_ in node.calls] == [call]


@pytest.mark.promise("source-copy-goes-when-moved")
async def test_a_deletion_ends_transfers_and_restores_first(node: ApiNode) -> None:
    reply = await node.call("DELETE", f"servers/{UUID.upper()}")
    assert (reply.status, reply.text) == (204, "")
    made_way = [("release", each, UUID) for each in ("out", "in", "rewind", "restore")]
    # Told only then: a daemon that dies before leaves what it sent to the next.
    assert node.calls == [*made_way, ("delete", UUID), ("deleted", "out", UUID)]
    assert (await node.call("GET", f"servers/{UUID}")).status == 404


async def test_files_of_a_server_that_was_moved_while_it_ran_are_put_away(node: ApiNode) -> None:
    node.sender.keeps = True
    assert (await node.call("DELETE", f"servers/{UUID}")).status == 204
    assert node.calls[-3:] == [("delete", UUID), ("put away",), ("deleted", "out", UUID)]


async def test_deleting_an_arriving_server_ends_its_transfer(node: ApiNode) -> None:
    node.receiver.servers = (OTHER,)
    assert (await node.call("DELETE", f"servers/{OTHER}")).status == 204
    assert OTHER not in node.receiver.servers


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
async def test_servers_not_loaded_yet_are_a_503(node: ApiNode, method: str, path: str) -> None:
    node.servers.loaded = False
    reply = await node.call(method, f"servers{path}", {"uuid": OTHER})
    assert (reply.status, reply.json["code"]) == (503, "servers-not-loaded")


@pytest.mark.parametrize("path", ["", "/power", "/commands", "/logs", "/sync", "/transfer", "/ws"])
async def test_an_unknown_server_is_a_404(node: ApiNode, path: str) -> None:
    method = {"": "DELETE", "/logs": "GET", "/ws": "GET"}.get(path, "POST")
    reply = await node.call(method, f"servers/{OTHER}{path}", {})
    assert (reply.status, reply.json["code"]) == (404, "server-not-found")


@pytest.mark.parametrize("action", list(PowerAction))
async def test_power_is_answered_before_it_is_done(node: ApiNode, action: PowerAction) -> None:
    reply = await node.call("POST", f"{HOME}/power", {"action": action.value})
    assert (reply.status, reply.text) == (202, "")
    assert node.calls == [("check_power", action), ("power", action, 30)]
    assert not node.server.powered.called
    node.server.powered.errback(EnvironmentFailed("told by the server itself"))


@pytest.mark.parametrize(("asked", "waits"), [(0, 0), (300, 300), (301, 30), (-1, 30)])
async def test_a_power_action_may_wait(node: ApiNode, asked: int, waits: int) -> None:
    await node.call("POST", f"{HOME}/power", {"action": "stop", "wait_seconds": asked})
    assert node.calls[-1] == ("power", PowerAction.STOP, waits)


@pytest.mark.parametrize("action", ["start", "restart"])
async def test_a_suspended_server_is_not_started(node: ApiNode, action: str) -> None:
    node.server.suspended = True
    reply = await node.call("POST", f"{HOME}/power", {"action": action})
    assert reply.status == 400
    assert reply.json["error"] == "Cannot start or restart a server that is suspended."
    assert node.calls == []


async def test_commands_are_sent_in_order(node: ApiNode) -> None:
    content = {"commands": ["say hello", "", "stop"]}
    reply = await node.call("POST", f"{HOME}/commands", content)
    assert (reply.status, reply.text) == (204, "")
    assert node.calls == [("command", "say hello"), ("command", ""), ("command", "stop")]


async def test_commands_to_a_stopped_server_are_refused(node: ApiNode, logged: Logged) -> None:
    node.server.online = False
    reply = await node.call("POST", f"{HOME}/commands", {"commands": ["one", "two"]})
    assert reply.status == 502
    assert reply.json["code"] == "server-not-running"
    assert node.calls == [("command", "one")]
    assert not [line for line in logged.lines if "failed" in line]


@pytest.mark.parametrize(
    ("query", "lines"),
    [("", 100), ("?size=3", 3), ("?size=5&lines=4", 5), ("?size=9999", 100)],
)
async def test_the_console_can_be_read(node: ApiNode, query: str, lines: int) -> None:
    reply = await node.call("GET", f"{HOME}/logs{query}")
    assert (reply.status, reply.json) == (200, {"data": node.server.lines[-lines:]})


async def test_the_console_is_plain_text_where_lines_are_asked_for(node: ApiNode) -> None:
    reply = await node.call("GET", f"{HOME}/logs?lines=2", Accept="application/msgpack")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert (reply.status, reply.text) == (200, "line 498\nline 499\n")


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5", "9" * 6000])
async def test_an_invalid_number_of_lines_is_refused(node: ApiNode, size: str) -> None:
    reply = await node.call("GET", f"{HOME}/logs?size={size}")
    assert reply.status == 400
    assert reply.json["detail"] == "size: expected a number of lines from 1 to 100"


SETTINGS = {"uuid": UUID, "suspended": True, "build": {"memory_limit": 512}}


@pytest.mark.parametrize(
    ("given", "stop"),
    [
        ({"settings": SETTINGS, "process_configuration": {"stop": {"type": "stop"}}}, Stop()),
        ({"settings": SETTINGS}, Stop("signal", "C")),
        (SETTINGS, Stop("signal", "C")),
    ],
)
async def test_settings_are_taken_from_the_body_of_calagopus_panel(
    node: ApiNode, given: dict[str, Any], stop: Stop
) -> None:
    reply = await node.call("POST", f"{HOME}/sync", {"server": given})
    assert reply.status == 204
    ((_, configuration),) = node.calls
    assert configuration.settings.suspended
    assert configuration.settings.build.memory_limit == 512
    assert configuration.process.stop == stop


@pytest.mark.parametrize("content", [None, {}, {"server": None}])  # the first is usual
async def test_settings_are_fetched_where_the_body_has_none(
    node: ApiNode, content: object
) -> None:
    reply = await node.call("POST", f"{HOME}/sync", content)
    assert (reply.status, node.calls) == (204, [("sync",)])


@pytest.mark.promise("one-whole-copy-after-a-kill")
async def test_an_order_is_answered_when_the_transfer_is_recorded(node: ApiNode) -> None:
    node.sender.recorded = Deferred()
    answered = Deferred.fromCoroutine(node.call("POST", f"{HOME}/transfer", ORDER))
    await until(lambda: bool(node.sender.servers))
    await node.call("GET", HOME)  # which is answered after all that the order has had time for
    assert not answered.called
    node.sender.recorded.callback(None)
    assert (await answered).status == 202


async def test_a_transfer_is_started(node: ApiNode, logged: Logged) -> None:
    reply = await node.call("POST", f"{HOME}/transfer", ORDER)
    assert (reply.status, reply.text) == (202, "")
    assert node.calls == [("start", UUID, TransferRequest(URL, "Bearer a.b.c"))]
    reply = await node.call("POST", f"{HOME}/transfer", ORDER)
    assert reply.status == 409
    assert reply.json["error"] == "A transfer is already in progress for this server."
    assert not [line for line in logged.lines if "backups" in line]
    assert not [line for line in logged.lines if "a.b.c" in line]


@pytest.mark.parametrize(
    ("asked", "passed_on"),
    [
        (
            {"archive_format": "tar_zstd", "compression_level": "good_speed"},
            {"archive_format": "tar_zstd", "compression_level": "good_speed"},
        ),
        ({"multiplex_streams": 3}, {"streams": 3}),
        ({"archive_format": None, "compression_level": None, "multiplex_streams": None}, {}),
        ({"backups": [OTHER.upper(), UUID, OTHER]}, {"backups": (OTHER, UUID)}),
        (
            {"backups": [OTHER], "delete_backups": True},
            {"backups": (OTHER,), "delete_backups": True},
        ),
    ],
)
async def test_what_a_panel_asks_of_a_transfer_is_passed_on(
    node: ApiNode, asked: dict[str, Any], passed_on: dict[str, Any]
) -> None:
    assert (await node.call("POST", f"{HOME}/transfer", ORDER | asked)).status == 202
    assert node.calls == [("start", UUID, TransferRequest(URL, "Bearer a.b.c", **passed_on))]


async def test_a_websocket_needs_no_authorization_header(node: ApiNode) -> None:
    reply = await node.call("GET", f"{HOME}/ws", Authorization=None)
    assert (reply.status, reply.text) == (200, f"the socket of {UUID}")


async def test_the_websocket_of_a_moved_server_can_still_be_opened(node: ApiNode) -> None:
    reply = await node.call("GET", f"servers/{OTHER}/ws", Authorization=None)
    assert reply.status == 404
    node.moved.add(OTHER)
    reply = await node.call("GET", f"servers/{OTHER}/ws", Authorization=None)
    assert (reply.status, reply.text) == (200, f"the socket of {OTHER}")
    reply = await node.call("GET", f"servers/{OTHER}")
    assert reply.status == 404


async def test_denied_tokens_are_recorded(node: ApiNode) -> None:
    reply = await node.call("POST", f"{HOME}/ws/deny", {"jtis": ["a", "b"]})
    assert (reply.status, reply.text) == (204, "")
    assert node.calls == [("deny", ("a", "b"), NOW), ("note denied", ("a", "b"))]
    assert node.sftp.checked == [UUID], "a token's id does not say whose sessions are meant"


@pytest.mark.promise("revoked-console-token-stays-refused")
async def test_a_deny_that_cannot_be_recorded_is_a_500(node: ApiNode) -> None:
    node.calls.faults["note denied"] = StorageError("the disk is full")
    reply = await node.call("POST", f"{HOME}/ws/deny", {"jtis": ["a"]})
    assert (reply.status, reply.json["detail"]) == (500, "the disk is full")
    assert node.calls[0] == ("deny", ("a",), NOW)


@pytest.mark.parametrize(
    ("servers", "affected"),
    [
        ({"type": "all"}, [UUID, OTHER]),
        ({"type": "uuids", "uuids": [OTHER]}, [OTHER]),
        ({"type": "uuids", "uuids": []}, []),
        ([UUID.upper()], [UUID]),
        (["11111111-6e2b-4c43-9d57-8d2f5a147f10"], []),
    ],
)
async def test_the_action_is_begun_for_the_servers_that_are_meant(
    node: ApiNode, servers: Any, affected: list[str]
) -> None:
    calls = {uuid: type(node.calls)() for uuid in (UUID, OTHER)}
    node.servers.known = {uuid: FakeServer(uuid, calls[uuid]) for uuid in calls}
    content = {"servers": servers, "action": "restart", "wait_seconds": 5}
    reply = await node.call("POST", "servers/power", content)
    assert (reply.status, reply.json) == (202, {"affected": len(affected)})
    begun = ("power", PowerAction.RESTART, 5)
    assert [uuid for uuid in calls if begun in calls[uuid]] == affected


async def test_a_server_that_is_busy_is_left_out(node: ApiNode) -> None:
    node.calls.faults["check_power"] = ServerBusy("server is currently installing")
    content = {"servers": {"type": "all"}, "action": "start"}
    reply = await node.call("POST", "servers/power", content)
    assert (reply.status, reply.json) == (202, {"affected": 0})


KEYS = (user_key(USER, UUID), user_key(USER, OTHER))
REVOKED = [("deny", KEYS, NOW), ("note denied", KEYS), ("close user", USER, (UUID, OTHER))]


@pytest.mark.parametrize(
    "content",
    [
        {"user": USER, "servers": [UUID, OTHER]},
        {"json": {"user": USER, "servers": [UUID, OTHER]}},
        {"user": USER.upper(), "servers": [UUID.upper(), OTHER, UUID]},
    ],
)
async def test_a_users_tokens_are_void_and_the_websockets_closed(
    node: ApiNode, content: dict[str, Any]
) -> None:
    reply = await node.call("POST", "deauthorize-user", content)
    assert (reply.status, reply.text) == (204, "")
    assert node.calls == REVOKED


@pytest.mark.parametrize("content", [{"user": USER}, {"json": {"user": USER, "servers": []}}])
async def test_without_servers_all_are_meant(node: ApiNode, content: dict[str, Any]) -> None:
    assert (await node.call("POST", "deauthorize-user", content)).status == 204
    keys = (user_key(USER),)
    assert node.calls == [
        ("deny", keys, NOW),
        ("note denied", keys),
        ("close user", USER, ()),
    ]


async def test_websockets_are_closed_though_the_disk_fails(node: ApiNode) -> None:
    node.calls.faults["note denied"] = StorageError("the disk is full")
    reply = await node.call("POST", "deauthorize-user", {"user": USER, "servers": [UUID, OTHER]})
    assert (reply.status, node.calls) == (500, REVOKED)


async def test_changed_permissions_void_the_tokens_of_one_server(node: ApiNode) -> None:
    users = [{"user": USER, "permissions": ["control.start"], "ignored_files": []}]
    path = f"servers/{UUID}/ws/permissions"
    reply = await node.call("POST", path, {"user_permissions": users})
    keys = (user_key(USER, UUID),)
    assert (reply.status, node.calls) == (204, [("deny", keys, NOW), ("note denied", keys)])
    reply = await node.call("POST", path, {"user_permissions": [{"user": "x"}]})
    assert (reply.status, reply.json["detail"][:21]) == (422, "user_permissions.user")
