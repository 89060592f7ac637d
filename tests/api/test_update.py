"""`/api/update`: a Panel saves the node's settings."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgpack
import pytest
import trustme
from twisted.internet.defer import Deferred, gatherResults

from tests.api.node import TOKEN, ApiNode
from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.workers import HeldWorkers, SynchronousWorkers
from tests.transfers.peers import closed_port
from wingsd.api.node import MAX_SETTINGS
from wingsd.app.reload import Reload
from wingsd.config import APPLIED, FAMILIES, Config, LiveConfig, load, value_at
from wingsd.config_file.updates import NodeSettings, PanelUpdates, taken_over
from wingsd.http.request import MAX_STORED_BODY

T = TypeVar("T")
FILE = f"""\
token_id: id
token: {TOKEN}   # by the Panel
remote: https://panel.example.com
"""
NEW = "another-s3cr3t"


class UpdatedNode(ApiNode):
    """A node whose settings are those of a file."""

    def __init__(
        self, directory: Path, disk: SynchronousWorkers | None = None, more: str = ""
    ) -> None:
        self.path = directory / "config.yml"
        self.path.write_text(FILE + more)
        live = LiveConfig(load(str(self.path))[0], str(self.path))
        workers: Any = disk or SynchronousWorkers()
        self.reload = Reload(live, lambda ssl: False)
        updates = PanelUpdates(live, workers, partial(self.reload, only_new=True))
        super().__init__(live=live, updates=updates)

    async def status(self, token: str) -> int:
        return (await self.call("GET", "system", Authorization=f"Bearer {token}")).status


def has(logged: Logged, text: str) -> bool:
    return any(text in line for line in logged.lines)


@pytest.fixture
def node(closing: Callable[[UpdatedNode], UpdatedNode], tmp_path: Path) -> UpdatedNode:
    return closing(UpdatedNode(tmp_path))


async def test_a_new_token_is_in_force_when_the_old_one_has_its_answer(
    node: UpdatedNode, logged: Logged
) -> None:
    reply = await node.call("POST", "update", {"token": NEW, "debug": True})
    assert (reply.status, reply.json) == (200, {"applied": True})
    assert (await node.status(TOKEN), await node.status(NEW)) == (403, 200)
    first, line, *_ = node.path.read_text().splitlines()
    assert first == "token_id: id"
    assert line.split() == ["token:", NEW, "#", "by", "the", "Panel"]
    assert has(logged, f"{node.path}: changed by the Panel: token, debug")
    assert not [line for line in logged.lines if NEW in line]


async def test_what_needs_a_restart_and_what_is_left_out_is_logged(
    node: UpdatedNode, logged: Logged
) -> None:
    uuid = "12345678-1234-4234-8234-123456789abc"
    reply = await node.call("POST", "update", {"uuid": uuid, "system": {"data": "/"}})
    assert reply.json == {"applied": True, "restart": ["uuid"]}
    assert has(logged, "changes that need a restart: uuid")
    assert has(logged, "only an operator may change it: system.data")
    assert load(str(node.path))[0].system.data != "/"


#: A new value of each key that some family's nodes take over.
CHANGES: dict[str, Any] = {
    "uuid": "12345678-1234-4234-8234-123456789abc",
    "token_id": "other",
    "token": NEW,
    "remote": "https://other.example.com",
    "debug": True,
    "app_name": "Games",
    "api.host": "::1",
    "api.ssl.enabled": True,
    "api.upload_limit": 7,
    "system.sftp.bind_address": "::1",
    "system.sftp.bind_port": 2999,
    "allowed_mounts": ["/srv/maps"],
    "allowed_origins": ["https://other.example.com"],
    "allow_cors_private_network": True,
    "ignore_panel_config_updates": True,
}


def nested(key: str, value: object) -> Any:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


#: Keys whose values the test finds.
FOUND = {"api.port", "api.ssl.cert", "api.ssl.key"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pem = tmp_path_factory.mktemp("certificate") / "certificate.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    return pem


def test_a_value_of_each_key_is_changed() -> None:
    assert CHANGES.keys() | FOUND == {key for family in FAMILIES for key in taken_over(family)}


@pytest.mark.promise("saved-settings-are-in-force")
@pytest.mark.parametrize("key", sorted(CHANGES.keys() | FOUND))
async def test_each_key_is_in_force_at_once_or_named_once_as_one_that_waits(
    tmp_path: Path, logged: Logged, certificate: Path, key: str
) -> None:
    family = next(family for family in FAMILIES if key in taken_over(family))
    pem = certificate
    ssl = f"api: {{ssl: {{cert: {pem}, key: {pem}}}}}\n"
    node = UpdatedNode(tmp_path, more=f"family: {family}\n{ssl}")
    (other := tmp_path / "other.pem").symlink_to(pem)
    with closed_port() as port:
        found = {"api.port": port, "api.ssl.cert": str(other), "api.ssl.key": str(other)}
    value = (CHANGES | found)[key]

    reply = await node.call("POST", "update", nested(key, value))
    expected = tuple(value) if isinstance(value, list) else value
    assert value_at(load(str(node.path))[0], key) == expected
    waits = [line for line in logged.lines if "need a restart" in line]
    if value_at(node.live.current, key) == expected:
        assert (reply.json, waits) == ({"applied": True}, [])
    else:
        assert reply.json == {"applied": True, "restart": [key]}
        (line,) = waits
        assert line.endswith(f"changes that need a restart: {key}")
        # Neither the same settings nor others say it again; the operator's reload does.
        for later in (nested(key, value), {"debug": True}):
            assert (await node.call("POST", "update", later)).json == {"applied": True}
        assert [line for line in logged.lines if "need a restart" in line] == waits
        node.reload()
        assert [line for line in logged.lines if "need a restart" in line] == [line, line]
    await node.close()


async def test_what_is_left_out_is_a_warning_once(node: UpdatedNode, logged: Logged) -> None:
    for data in ("/other", "/other", "/third"):
        body = nested("system.data", data) | {"debug": True}
        assert (await node.call("POST", "update", body)).json == {"applied": True}
    assert len([line for line in logged.lines if "only an operator may change it" in line]) == 2


@pytest.mark.promise("saved-settings-are-in-force")
async def test_a_change_that_is_taken_back_waits_for_no_restart(
    node: UpdatedNode, logged: Logged
) -> None:
    own = node.live.current.system.sftp.bind_port
    for port, restart in ((2999, {"restart": ["system.sftp.bind_port"]}), (own, {})):
        reply = await node.call("POST", "update", nested("system.sftp.bind_port", port))
        assert reply.json == {"applied": True, **restart}
    assert len([line for line in logged.lines if "need a restart" in line]) == 1


@pytest.mark.promise("node-token-does-not-open-the-machine")
@pytest.mark.parametrize(
    ("own", "sent", "opens"),
    [
        ("127.0.0.1", "0.0.0.0", True),  # noqa: S104
        ("203.0.113.7", "0.0.0.0", True),  # noqa: S104
        ("localhost", "::", True),
        ("'::1'", "::", True),
        ("'::'", "0.0.0.0", False),  # noqa: S104
        ("0.0.0.0", "0.0.0.0", False),  # noqa: S104
        ("0.0.0.0", "127.0.0.1", False),  # noqa: S104
    ],
)
async def test_settings_that_would_open_the_node_are_a_warning(
    tmp_path: Path, logged: Logged, own: str, sent: str, opens: bool
) -> None:
    node = UpdatedNode(tmp_path, more=f"api: {{host: {own}}}\n")
    for _ in range(2):
        assert (await node.call("POST", "update", {"api": {"host": sent}})).status == 200
    found = [line for line in logged.lines if "at all addresses" in line]
    assert len(found) == opens
    if opens:
        assert f"api.host: {own}".replace("'", "") in found[0]
        assert "ignore_panel_config_updates" in found[0]
    await node.close()


async def test_an_operator_who_refuses_updates_learns_of_a_new_token(
    node: UpdatedNode, logged: Logged
) -> None:
    node.path.write_text(FILE + "ignore_panel_config_updates: true\n")
    reply = await node.call("POST", "update", {"token": NEW})
    assert (reply.status, reply.json) == (200, {"applied": False})
    assert await node.status(TOKEN) == 200
    assert has(logged, "the Panel has another token for this node: copy token_id and token")


async def test_refused_settings_say_why_and_what_to_do(node: UpdatedNode, logged: Logged) -> None:
    reply = await node.call("POST", "update", {"token": NEW, "remote": "nowhere"})
    assert (reply.status, reply.json["code"]) == (422, "unprocessable")
    assert "remote: expected an http:// or https:// address" in reply.json["detail"]
    assert node.path.read_text() == FILE
    assert await node.status(TOKEN) == 200
    assert has(logged, "the Panel's settings are not saved")
    assert has(logged, "the Panel has another token for this node: copy token_id and token")


@pytest.mark.promise("saved-settings-are-in-force")
async def test_a_file_that_cannot_be_written_is_an_error_of_the_node(
    node: UpdatedNode, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("wingsd.config_file.editing.os.fsync", fail)
    reply = await node.call("POST", "update", {"token": NEW})
    assert (reply.status, reply.json["code"]) == (500, "settings-not-saved")
    assert (await node.status(NEW), await node.status(TOKEN)) == (403, 200)
    assert node.path.read_text() == FILE
    assert has(logged, "the Panel has another token for this node: copy token_id and token")


def leaves(cls: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in attrs.fields(attrs.resolve_types(cls)):
        here = (*path, field.name)
        yield from leaves(field.type, here) if attrs.has(field.type) else [here]


async def test_a_value_of_a_wrong_type_is_named(node: UpdatedNode) -> None:
    for path, wrong in product(map(".".join, leaves(NodeSettings)), ({"a": 1}, 1.5)):
        reply = await node.call("POST", "update", nested(path, wrong))
        assert (reply.status, reply.json["code"]) == (400, "bad-request")
        assert reply.json["detail"].startswith(f"{path}: expected ")
    assert node.path.read_text() == FILE


async def test_settings_come_in_messagepack_too(node: UpdatedNode) -> None:
    content = msgpack.packb({"debug": True, "api": {"upload_limit": 64}})
    reply = await node.call("POST", "update", content, Content_Type="application/msgpack")
    assert reply.status == 200
    assert node.path.read_text() == FILE + "debug: true\napi:\n  upload_limit: 64\n"


@pytest.mark.promise("node-token-does-not-open-the-machine")
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\xdf\xff\xff\xff\xff", 400),
        (b"\x00" * (MAX_STORED_BODY + 1), 413),
        (msgpack.packb({"allowed_mounts": ["/a" * 20] * (MAX_SETTINGS // 40)}), 413),
        (b"[]", 200),
    ],
    ids=["a map that is cut off", "too large", "too many mounts", "PHP's empty map"],
)
async def test_a_body_that_is_no_map_changes_nothing(
    node: UpdatedNode, content: bytes, status: int
) -> None:
    kind = "application/json" if content == b"[]" else "application/msgpack"
    reply = await node.call("POST", "update", content, Content_Type=kind)
    assert reply.status == status
    assert node.path.read_text() == FILE


@pytest.mark.promise("saved-settings-are-in-force")
async def test_a_client_that_leaves_has_its_settings_saved(tmp_path: Path) -> None:
    disk = HeldWorkers()
    node = UpdatedNode(tmp_path, disk)
    body = json.dumps({"token": NEW})
    with socket.create_connection(("127.0.0.1", node.port)) as caller:
        caller.sendall(
            "POST /api/update HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await until(lambda: disk.held)
    await until(lambda: not node.site.connections)
    disk.held[0].do()
    assert (await node.status(TOKEN), await node.status(NEW)) == (403, 200)
    assert load(str(node.path))[0].token == NEW
    await node.close()


async def test_simultaneous_updates_are_all_saved(node: UpdatedNode) -> None:
    bodies = [{"debug": True}, {"allowed_mounts": ["/srv/maps"]}, {"api": {"upload_limit": 9}}]
    replies = await gatherResults(
        [Deferred.fromCoroutine(node.call("POST", "update", body)) for body in bodies]
    )
    assert [reply.status for reply in replies] == [200, 200, 200]
    config = load(str(node.path))[0]
    assert (config.debug, config.allowed_mounts) == (True, ("/srv/maps",))
    assert "upload_limit: 9" in node.path.read_text()


def test_each_key_in_force_at_once_is_one_of_the_configuration() -> None:
    config = Config(token_id="a", token="b", remote="https://panel.example.com")
    for key in APPLIED:
        value_at(config, key)
