"""The Panels' APIs for administrators, over a real socket: answers as their sources make them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.cli.daemon import HttpPanel
from wingsd.cli.client import CtlError
from wingsd.cli.evacuation import panels
from wingsd.cli.evacuation.panels import (
    CalagopusPanel,
    Panel,
    PanelError,
    PelicanPanel,
    Port,
    PterodactylPanel,
    node_of,
    read_key,
)

KEY = "papp_secretsecretsecret"
SERVER = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
NODES = (
    {"id": 1, "uuid": "a" * 36, "name": "old", "scheme": "https", "fqdn": "old.example.com"}
    | {"daemon_listen": 8080, "daemon_connect": 8443, "memory": 1000, "memory_overallocate": 50}
    | {"disk": 0, "disk_overallocate": 0, "cpu": 400, "cpu_overallocate": -1},
    {"id": 2, "uuid": "b" * 36, "name": "new", "scheme": "https", "fqdn": "new.example.com"}
    | {"daemon_listen": 8080, "memory": 1000, "memory_overallocate": 0, "disk": 5},
)


def server(number: int = 7, **changes: Any) -> dict[str, Any]:
    ports = [
        {"object": "allocation", "attributes": each}
        for each in (
            {"id": 11, "ip": "10.0.0.1", "alias": None, "port": 25566, "assigned": True},
            {"id": 10, "ip": "10.0.0.1", "alias": None, "port": 25565, "assigned": True},
        )
    ]
    return {
        **{"id": number, "uuid": SERVER, "identifier": "8d2f5a14", "name": "a game", "node": 1},
        "limits": {"memory": 512, "disk": 1024, "cpu": 0, "threads": "0-3"},
        "allocation": 10,
        "container": {"image": "java"},
        "relationships": {"allocations": {"object": "list", "data": ports}},
    } | changes


@pytest.fixture
def http() -> Iterator[HttpPanel]:
    panel = HttpPanel()
    yield panel
    panel.stop()


@pytest.fixture
def pelican(http: HttpPanel) -> Panel:
    return PelicanPanel(http.url, KEY, no_sleep)


def no_sleep(_: float) -> None:
    pass


def test_all_pages_are_read(http: HttpPanel, pelican: Panel) -> None:
    path = "/api/application/servers?include=allocations"
    http.page(path, [server(), server(8, node=2)], 1, 3)
    http.page(path, [server(9, node=3)], 2, 3)
    http.page(path, [server(10)], 3, 3)
    assert [each.id for each in pelican.servers(["1", "2"])] == ["7", "8", "10"]
    assert {each["Authorization"] for each in http.headers} == {f"Bearer {KEY}"}


def test_servers_nodes_and_ports_of_pelican(http: HttpPanel, pelican: Panel) -> None:
    http.page("/api/application/nodes", [*NODES])
    old, new = pelican.nodes()
    assert (old.memory, old.disk, old.cpu) == (1500, None, None)
    assert (new.memory, new.disk, new.cpu) == (1000, 5, None)
    assert (old.url, new.url) == ("https://old.example.com:8443", "https://new.example.com:8080")
    assert node_of([old, new], "new") is new
    assert node_of([old, new], "https://old.example.com:8443") is old
    assert node_of([old, new], "b" * 36) is new
    with pytest.raises(CtlError, match="no node 'other'"):
        node_of([old, new], "other")
    path = "/api/application/servers/7?include=allocations"
    http.answers("GET", path, {"object": "server", "attributes": server()})
    found = pelican.server("7")
    assert found is not None
    assert (found.uuid, found.node, found.memory, found.disk) == (SERVER, "1", 512, 1024)
    assert [each.port for each in found.ports] == [25565, 25566]  # the primary one first
    assert pelican.server("8") is None
    listed = [
        {"id": 20, "ip": "10.0.0.2", "port": 25565, "assigned": False},
        {"id": 21, "ip": "10.0.0.2", "port": 25566, "assigned": True},
    ]
    http.page("/api/application/nodes/2/allocations", listed)
    assert pelican.ports("2") == [
        Port("20", "10.0.0.2", 25565, True),
        Port("21", "10.0.0.2", 25566, False),
    ]


def test_an_order_and_its_release_at_pelican(http: HttpPanel, pelican: Panel) -> None:
    http.answers("POST", "/api/application/servers/7/transfer", None, 204)
    pelican.order("7", "2", ["20", "21"])
    body = {"node_id": 2, "allocation_id": 20, "allocation_additional": [21]}
    assert http.asked == [("POST", "/api/application/servers/7/transfer", body)]
    # It releases the server, and then asks the nodes, which know of none.
    for status in (204, 406, 500):
        http.answers("POST", "/api/application/servers/7/transfer/cancel", None, status)
        pelican.release("7")


def test_pterodactyl_has_a_page_for_orders(http: HttpPanel) -> None:
    panel = PterodactylPanel(f"{http.url}", KEY)
    assert not panel.takes_orders
    assert panel.page("7") == f"{http.url}/admin/servers/view/7/manage"


def test_servers_orders_and_releases_of_calagopus(http: HttpPanel) -> None:
    panel = CalagopusPanel(http.url, KEY)
    node, other = "1" * 36, "2" * 36
    described = {
        **{"uuid": SERVER, "name": "a game", "node": {"uuid": node}, "is_transferring": True},
        "limits": {"memory": 512, "memory_overhead": 64, "disk": 1024, "cpu": 100},
        "pinned_cpus": [0, 5],
    }
    ports = [
        {"uuid": "p2", "ip": "10.0.0.1", "port": 25566, "is_primary": False},
        {"uuid": "p1", "ip": "10.0.0.1", "port": 25565, "is_primary": True},
    ]
    free = {"uuid": "p3", "ip": "10.0.0.2", "port": 25565, "server": None}

    def page(path: str, name: str, data: list[Any]) -> None:
        found = {name: {"total": len(data), "per_page": 100, "page": 1, "data": data}}
        http.answers("GET", f"/api/admin/{path}?per_page=100&page=1", found)

    page(f"nodes/{node}/servers", "servers", [described])
    page(f"servers/{SERVER}/allocations", "allocations", ports)
    page(f"nodes/{other}/allocations", "allocations", [free, free | {"server": described}])
    named = {"uuid": node, "name": "old", "url": "https://old:8080/", "memory": 4096, "disk": 0}
    page("nodes", "nodes", [named])
    (found,) = panel.servers([node])
    assert (found.node, found.memory, found.threads, found.is_moving) == (node, 576, "0,5", True)
    assert [each.id for each in found.ports] == ["p1", "p2"]
    assert [each.is_free for each in panel.ports(other)] == [True, False]
    assert [(each.memory, each.disk) for each in panel.nodes()] == [(4096, None)]
    http.answers("POST", f"/api/admin/servers/{SERVER}/transfer", {}, 202)
    panel.order(SERVER, other, ["p3"])
    _, _, body = http.asked[-1]
    assert (body["node_uuid"], body["allocation_uuid"], body["allocation_uuids"]) == (
        *(other, "p3"),
        [],
    )
    assert body["backups"] == []
    assert body["delete_source_backups"] is False
    http.answers("POST", f"/api/admin/servers/{SERVER}/clear-state", {})
    panel.release(SERVER)


def test_too_many_requests_are_waited_for(http: HttpPanel) -> None:
    slept: list[float] = []
    panel = PelicanPanel(http.url, KEY, slept.append)
    path = "/api/application/servers/7?include=allocations"
    http.answers("GET", path, {"errors": []}, 429, Retry_After="3")
    http.answers("GET", path, {"errors": []}, 429)
    http.answers("GET", path, {"attributes": server()})
    assert panel.server("7") is not None
    assert slept == [3.0, panels.PAUSE]


@pytest.mark.parametrize(
    ("status", "content", "told", "is_certain"),
    [
        (401, {"errors": [{"detail": "Unauthenticated."}]}, "does not accept .*Unauth", True),
        (403, {"errors": [{"detail": "no"}]}, r"does not allow this .* \(403\): no", True),
        (406, b"", "no room for the server", True),
        (409, {"errors": ["in a transfer"]}, r"answered 409 \(409\): in a transfer", True),
        (422, {"errors": [{"detail": "the allocation is taken"}]}, "allocation is taken", True),
        (500, b"<html>oh\x1b[31m</html>", r"answered 500 \(500\)$", False),
        (302, b"", "leads to https://elsewhere.example.com", True),
        (200, b"<html>a page</html>", "something that is not JSON", False),
    ],
)
def test_refusals_are_clear_and_do_not_show_the_key(
    http: HttpPanel, pelican: Panel, status: int, content: Any, told: str, is_certain: bool
) -> None:
    path = "/api/application/servers/7/transfer"
    http.answers("POST", path, content, status, Location="https://elsewhere.example.com")
    with pytest.raises(PanelError) as raised:
        pelican.order("7", "2", ["20"])
    error = raised.value
    assert re.search(told, error.message)
    assert "\x1b" not in error.message
    assert error.is_certain is is_certain
    assert error.detail
    assert KEY not in f"{error.message} {error.detail} {error!r} {pelican!r}"


def test_another_panels_answer_is_named(http: HttpPanel, pelican: Panel) -> None:
    http.answers("GET", "/api/application/nodes?per_page=100&page=1", {"nodes": []})
    with pytest.raises(PanelError, match="not that of a Panel of the family pelican"):
        pelican.nodes()
    http.answers("GET", "/api/admin/nodes?per_page=100&page=1", [1])
    with pytest.raises(PanelError, match="not that of a Panel of the family calagopus"):
        CalagopusPanel(http.url, KEY).nodes()


def test_a_panel_that_is_away_is_named(http: HttpPanel) -> None:
    http.stop()
    with pytest.raises(PanelError, match=r"does not answer: .*refused") as raised:
        PelicanPanel(http.url, KEY).order("7", "2", [])
    assert raised.value.is_certain


def test_a_key_is_read_from_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    assert read_key(str(path)) == KEY
    path.chmod(0o640)
    with pytest.raises(CtlError, match="other users can read"):
        read_key(str(path))
    path.chmod(0o600)
    with (
        patch("os.geteuid", return_value=os.geteuid() + 1),
        patch.object(panels, "_TRUSTED_USER", os.getuid() + 2),
        pytest.raises(CtlError, match="not a file of yours"),
    ):
        read_key(str(path))
    for text in ("", "two words", "x" * 5000, "a\x00b"):
        path.write_text(text)
        with pytest.raises(CtlError, match="has no API key"):
            read_key(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CtlError, match="it is not a key"):
        read_key(str(path))
    with pytest.raises(CtlError, match="No such file"):
        read_key(str(tmp_path / "other"))
