"""WebSockets on real connections: a browser, the site, and what it watches and does."""

from __future__ import annotations

import pytest

from tests.support.browser import Browser, NotOpened
from tests.support.logged_errors import Logged
from tests.websocket.consoles import ConsoleNode
from tests.websocket.tokens import UUID
from wingsd.config import ApiConfig
from wingsd.errors import Conflict
from wingsd.servers.power_states import PowerAction, PowerState

LOGS = "transfer logs"


@pytest.mark.parametrize("secure", [False, True])
async def test_a_browser_watches_a_server(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    browser = await node.watch()
    node.publish("console output", "héllo")
    node.publish("status", "stopping")
    node.publish("transfer logs", "not for all")
    node.publish("transfer status", "processing")
    await browser.wait_for("transfer status", "processing")
    assert [(entry.event, entry.args) for entry in browser.events] == [
        ("auth success", ()),
        ("status", ("running",)),
        ("console output", ("héllo",)),
        ("status", ("stopping",)),
        ("transfer status", ("processing",)),
    ]
    await browser.close()
    assert browser.closed is not None
    assert browser.closed[0] == 1000


async def test_a_browser_drives_a_server(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("*")
    browser.send("set state", "restart")
    browser.send("send command", "say hello")
    browser.send("send stats")
    await browser.wait_for("stats", '{"state": "running"}')
    # A person need not wait for another's action.
    assert node.server.done == [(PowerAction.RESTART, 0), ("say hello",)]


async def test_what_a_user_does_is_activity(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("*")
    browser.send("set state", "restart")
    browser.send("send command", "say ", "hello")
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats", '{"state": "running"}')
    assert node.activity.entries == [
        ("server:power.restart", {}, "user", "127.0.0.1"),
        ("server:console.command", {"command": "say hello"}, "user", "127.0.0.1"),
        ("server:power.kill", {}, "user", "127.0.0.1"),
    ]


@pytest.mark.parametrize("header", ["X_Forwarded_For", "X_Real_IP"])
@pytest.mark.parametrize(("proxy", "known"), [("127.0.0.0/8", "198.51.100.7"), ("", "127.0.0.1")])
async def test_activity_has_the_address_of_a_user_behind_a_trusted_proxy(
    node: ConsoleNode, header: str, proxy: str, known: str
) -> None:
    node.listen(api=ApiConfig(trusted_proxies=(proxy,) if proxy else ()))
    browser = await node.open("*", **{header: "198.51.100.7"})
    await browser.auth()
    browser.send("set state", "kill")
    browser.send("send stats")
    await browser.wait_for("stats")
    assert node.activity.entries == [("server:power.kill", {}, "user", known)]


async def test_what_is_not_done_is_no_activity(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("control.start")
    node.server.fault = Conflict("another power action is under way", "try again")
    browser.send("set state", "start")
    browser.send("set state", "stop")
    await browser.wait_for("daemon error", "you do not have the permission control.stop")
    node.server.state = PowerState.OFFLINE
    browser.send("send command", "x")
    await browser.wait_for("daemon error", "you do not have the permission control.console")
    assert node.activity.entries == []


async def test_previous_lines_are_sent_on_request(node: ConsoleNode) -> None:
    node.listen()
    # More than a transport likes to take at once, and all of it at once.
    node.server.lines = [f"{number} {'x' * 2000}" for number in range(200)]
    browser = await node.watch()
    browser.send_raw(b'{"event": "send logs", "args": [null]}')
    await browser.wait_for("console output", "199 ")
    numbers = [entry.args[0].split()[0] for entry in browser.events[2:]]
    assert numbers == [str(number) for number in range(50, 200)]


async def test_a_page_that_asks_for_it_gets_binary_messages(node: ConsoleNode) -> None:
    node.listen(secure=True)
    browser, other = await node.watch("*"), await node.watch()
    browser.send("configure socket", "transmission mode", "binary")
    browser.send_binary("send logs", "")
    assert (await browser.wait_for("console output", "line 199")).binary
    # As a page sends its next token.
    browser.send_binary("auth", node.token("*"))
    node.publish("status", "stöpping")
    assert (await browser.wait_for("status", "stöpping")).binary
    assert not (await other.wait_for("status", "stöpping")).binary
    browser.send("configure socket", "transmission mode", "text")
    browser.send_binary("ping", "17")
    assert not (await browser.wait_for("pong", "17")).binary
    assert [entry.binary for entry in browser.events if entry.event == "auth success"] == [
        False,
        True,
    ]


async def test_failures_are_explained(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch("control.start")
    node.server.state = PowerState.OFFLINE
    node.server.fault = Conflict("another power action is under way", "try again")
    browser.send("set state", "start")
    await browser.wait_for("daemon error", "another power action is under way: try again")
    browser.send("send command", "x")
    await browser.wait_for("daemon error", "you do not have the permission control.console")
    browser.send_raw(b"nonsense")
    await browser.wait_for("daemon error", "this message cannot be read")
    browser.send_raw(b'{"event": "send stats"}', binary=True)
    browser.send("dance")
    await browser.wait_for("daemon error", "unknown message 'dance'")
    assert browser.count("daemon error") == 5
    assert browser.count("stats") == 0


async def test_an_internal_error_is_logged_and_not_shown(
    node: ConsoleNode, logged: Logged
) -> None:
    node.listen()
    node.server.fault = RuntimeError("secret")
    browser = await node.watch("*")
    browser.send("set state", "start")
    found = await browser.wait_for("daemon error", "an unexpected error")
    assert "secret" not in found.args[0]
    assert logged.take(RuntimeError)
    assert f"{UUID}: ChangePower for a browser failed" in logged.lines


@pytest.mark.parametrize("secure", [False, True])
async def test_a_shutdown_closes_connections_with_1012(node: ConsoleNode, secure: bool) -> None:
    node.listen(secure=secure)
    watching, silent = await node.watch(), await node.open()
    await node.site.drain(5)
    assert await watching.wait_closed() == (1012, "this node is shutting down")
    assert await silent.wait_closed() == (1012, "this node is shutting down")


async def test_a_client_that_ignores_the_close_is_aborted(node: ConsoleNode) -> None:
    node.listen()
    browser = await node.watch()
    browser.pause()
    await node.site.drain(0.05)
    assert not node.site.connections


def transfer(node: ConsoleNode, *states: str) -> None:
    for state in states:
        node.publish("transfer status", state)


def console(browser: Browser) -> list[str]:
    """Return the lines of a server and of its transfer that a browser has, in order."""
    events = [entry for entry in browser.events if entry.event in ("console output", LOGS)]
    return [entry.args[0] for entry in events]


@pytest.mark.promise("pages-follow-a-transfer")
async def test_a_transfers_lines_are_sent_and_not_the_console(node: ConsoleNode) -> None:
    node.listen(family="pterodactyl")
    before = await node.watch("admin.websocket.transfer")
    transfer(node, "pending", "processing")
    await before.wait_for("transfer status", "processing")
    node.publish(LOGS, "one")
    browser = await node.watch("admin.websocket.transfer")
    node.publish(LOGS, "two")
    browser.send("send logs")
    await browser.wait_for("transfer logs", "one")
    node.publish(LOGS, "three")
    await browser.wait_for("transfer logs", "three")
    assert console(browser) == ["two", "one", "two", "three"]


@pytest.mark.promise("pages-follow-a-transfer")
@pytest.mark.parametrize("begin", ["pending", "starting"])
async def test_a_page_cleared_by_a_failure_gets_the_console_though_the_next_try_is_under_way(
    node: ConsoleNode, begin: str
) -> None:
    node.listen(family="pterodactyl")
    node.server.lines = ["line"]
    before = await node.watch("admin.websocket.transfer")
    transfer(node, begin, "processing")
    node.publish(LOGS, "failed since")
    transfer(node, "failed", "failure")
    await before.wait_for("transfer status", "failed")
    transfer(node, begin)
    node.publish(LOGS, "tried again")
    browser = await node.watch("admin.websocket.transfer")
    browser.send("send logs")
    await browser.wait_for(LOGS, "tried again")
    assert console(browser) == ["line", "failed since", "tried again"]


@pytest.mark.promise("pages-follow-a-transfer")
async def test_pelicans_page_is_sent_as_console_output_what_it_would_ignore(
    node: ConsoleNode,
) -> None:
    node.listen(family="pelican")
    node.server.lines = ["line"]
    browser = await node.watch("admin.websocket.transfer")
    transfer(node, "pending", "processing")
    node.publish(LOGS, "one")
    node.publish("daemon message", "pulling an image")
    node.publish("console output", "end")
    await browser.wait_for("console output", "end")
    first, second, _ = console(browser)
    assert first == "one"
    assert "Daemon]:" in second
    assert "pulling an image" in second
    # It does not connect again on its own: a page opened in a transfer has no line yet.
    late = await node.watch("admin.websocket.transfer")
    late.send("send logs")
    await late.wait_for("console output", "one")
    assert console(late) == ["line", "one"]
    for page in (browser, late):
        assert page.count(LOGS) == page.count("daemon message") == 0


async def test_who_may_not_see_a_transfers_lines_gets_the_console(node: ConsoleNode) -> None:
    node.listen()
    node.server.lines = ["line"]
    transfer(node, "pending", "processing")
    node.publish(LOGS, "secret")
    browser = await node.watch("*")
    browser.send("send logs")
    await browser.wait_for("console output", "line")
    assert console(browser) == ["line"]


async def test_after_a_transfer_its_lines_are_sent_behind_the_console(node: ConsoleNode) -> None:
    node.listen()
    node.server.lines = ["line"]
    transfer(node, "pending", "processing")
    node.publish(LOGS, "failed since")
    transfer(node, "failed", "failure")
    browser = await node.watch("admin.websocket.transfer")
    await browser.wait_for("transfer status", "failed")
    browser.send("send logs")
    await browser.wait_for("transfer logs", "failed since")
    assert console(browser) == ["line", "failed since"]


async def test_a_moved_servers_socket_reports_the_move_alone(node: ConsoleNode) -> None:
    node.listen()
    transfer(node, "pending", "processing", "success", "completed")
    node.has_left = True
    browser = await node.open("*")
    await browser.auth()
    browser.send("set state", "start")
    await browser.wait_for("daemon error", "the server has moved to another node: reload")
    assert [(entry.event, entry.args) for entry in browser.events[:2]] == [
        ("auth success", ()),
        ("transfer status", ("completed",)),
    ]
    assert node.server.done == []


async def test_a_server_whose_transfer_failed_elsewhere_has_no_socket(node: ConsoleNode) -> None:
    node.listen()
    transfer(node, "pending", "processing", "failed", "failure")
    node.has_left = True
    with pytest.raises(NotOpened, match="404"):
        await node.open("*")


async def test_a_server_before_its_deletion_reports_its_move(node: ConsoleNode) -> None:
    node.listen()
    transfer(node, "pending", "processing", "success", "completed")
    node.server.disowned = True
    browser = await node.watch()
    await browser.wait_for("transfer status", "completed")
