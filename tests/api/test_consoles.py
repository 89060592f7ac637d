"""Users who lose access to consoles, as each Panel says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.api.node import NOW, TOKEN, UUID, ApiNode, context
from tests.support.workers import SynchronousWorkers
from wingsd.api.servers import revoke
from wingsd.auth.tokens import ConsoleToken, DenyList, user_key
from wingsd.config import Config, LiveConfig
from wingsd.errors import StorageError
from wingsd.statedb import StateDatabase, Store

USER = "6f1f2fd4-8f43-4a92-b1a7-9ddc6f1ba0d5"
OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
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


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        ({}, 400, "user: is missing"),
        ({"servers": [UUID]}, 400, "user: is missing"),
        ({"json": {"servers": [UUID]}}, 400, "json.user: is missing"),
        ({"user": 5}, 400, "user: expected a text"),
        ({"user": "somebody"}, 422, "user: expected the UUID of a user"),
        ({"user": USER, "servers": ["all"]}, 422, "servers: expected the UUIDs of servers"),
        ({"user": USER, "servers": "all"}, 400, "servers: expected a list"),
    ],
)
async def test_an_invalid_user_or_server_is_refused(
    node: ApiNode, content: dict[str, Any], status: int, detail: str
) -> None:
    reply = await node.call("POST", "deauthorize-user", content)
    assert (reply.status, reply.json["code"].startswith(("bad", "unpr"))) == (status, True)
    assert detail in reply.json["detail"]
    assert node.calls == []


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


async def test_void_tokens_stay_void_after_a_restart(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.open()
    workers: Any = SynchronousWorkers()
    database = StateDatabase(store, workers, time.time)
    live = LiveConfig(Config("id", TOKEN, "https://panel.example.com"))
    node = context(live, denied=DenyList(NOW), database=database)
    await Deferred.fromCoroutine(revoke(node, (user_key(USER, UUID),)))
    store.close()

    again = Store(str(tmp_path))
    again.open()
    denied = DenyList(booted=NOW)
    denied.restore(again.denied())
    again.close()
    token = ConsoleToken(USER, UUID, "j", time.time() - 60, time.time() + 600, frozenset())
    assert denied.refuses(token)
    assert not denied.refuses(attrs.evolve(token, server=OTHER))
    assert not denied.refuses(attrs.evolve(token, user=OTHER))
    assert not denied.refuses(attrs.evolve(token, issued=time.time() + 1))
