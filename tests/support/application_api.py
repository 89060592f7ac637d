"""The application API of Pelican's Panel, as far as `wingsctl evacuate` uses it.

Facts are from its sources: an order is committed before the node is asked, whose answer is not
looked at; a cancel releases the server, but not its new allocations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.nodes import NodeError
from tests.support.settings import Json
from tests.support.state import Node, Refused, State

ROOT = "/api/application"
#: A key of it. A node's credentials are not accepted.
KEY = "papp_application"
#: Asks a node: method, path and body; raises `NodeError` without an answer.
Ask = Callable[[Node, str, str, Any], Awaitable[Any]]


class ApplicationApi:
    """Answers about the servers, nodes and allocations of `state`, and orders their transfers."""

    def __init__(self, state: State, order_for: Callable[[str, Node], Json], ask: Ask) -> None:
        self._state = state
        self._order_for = order_for
        self._ask = ask

    async def answer(self, method: str, url: str, authorization: str, body: Any) -> Json | None:
        """Return the answer's JSON, None for an empty one. Raises `Refused`."""
        if authorization != f"Bearer {KEY}":
            raise Refused(401, "Unauthenticated.")
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        match method, parts.path.removeprefix(ROOT).strip("/").split("/"):
            case "GET", ["nodes"]:
                return self._page([_node(*each) for each in self._state.numbered_nodes()], query)
            case "GET", ["nodes", number, "allocations"]:
                node = self._node(number)
                found = [e for e in self._state.allocations.values() if e.node is node]
                return self._page([_allocation(each) for each in found], query)
            case "GET", ["servers"]:
                return self._page([self._server(each) for each in self._state.servers()], query)
            case "GET", ["servers", number]:
                return {"object": "server", "attributes": self._server(self._uuid(number))}
            case "POST", ["servers", number, "transfer"]:
                await self._transfer(self._uuid(number), body)
                return None
            case "POST", ["servers", number, "transfer", "cancel"]:
                await self._cancel(self._uuid(number))
                return None
        raise Refused(404, "Not Found")

    @staticmethod
    def _page(found: list[Json], query: dict[str, str]) -> Json:
        size, number = int(query.get("per_page", 50)), int(query.get("page", 1))
        shown = found[(number - 1) * size : number * size]
        return {
            "object": "list",
            "data": [{"object": "x", "attributes": each} for each in shown],
            "meta": {"pagination": {"total_pages": max(1, -(-len(found) // size))}},
        }

    def _node(self, number: str) -> Node:
        for each, node in self._state.numbered_nodes():
            if str(each) == number:
                return node
        raise Refused(404, "There is no such node.")

    def _uuid(self, number: str) -> str:
        servers = self._state.servers()
        if not number.isdecimal() or not 1 <= int(number) <= len(servers):
            raise Refused(404, "There is no such server.")
        return servers[int(number) - 1]

    def _server(self, uuid: str) -> Json:
        settings, node = self._state.settings_of(uuid), self._state.node_of(uuid)
        build, default = settings["build"], settings["allocations"]["default"]
        mine = [each for each in self._state.allocations.values() if each.server == uuid]
        primary = [e.id for e in mine if e.node is node and e.port == default["port"]]
        return {
            "id": self._state.servers().index(uuid) + 1,
            "uuid": uuid,
            "name": settings["meta"]["name"],
            "node": {each: number for number, each in self._state.numbered_nodes()}[node],
            "allocation": primary[0] if primary else None,
            "limits": {
                "memory": build["memory_limit"],
                "disk": build["disk_space"],
                "cpu": build["cpu_limit"],
                "threads": build["threads"],
            },
            "container": {"image": settings["container"]["image"]},
            "relationships": {
                "allocations": {
                    "object": "list",
                    "data": [{"object": "x", "attributes": _allocation(each)} for each in mine],
                }
            },
        }

    async def _transfer(self, uuid: str, body: Any) -> None:
        state = self._state
        node = self._node(str(body["node_id"]))
        chosen = state.allocations.get(body["allocation_id"])
        if chosen is None or any(
            each.server not in ("", uuid)
            for each in map(state.allocations.get, [chosen.id, *body["allocation_additional"]])
            if each is not None
        ):
            raise Refused(422, "The allocation id has already been taken.")
        if state.in_transfer(uuid):
            raise Refused(409, "This server is being transferred.")
        state.open_transfer(uuid, node, (chosen.id, *body["allocation_additional"]))
        source = state.node_of(uuid)
        path = f"/api/servers/{uuid}/transfer"
        try:
            await self._ask(source, "POST", path, self._order_for(uuid, node))
        except NodeError as error:
            raise Refused(500, "Server Error") from error

    async def _cancel(self, uuid: str) -> None:
        state = self._state
        if not state.in_transfer(uuid):
            raise Refused(406, "")
        state.close_transfer(uuid)
        try:
            await self._ask(state.node_of(uuid), "DELETE", f"/api/servers/{uuid}/transfer", None)
        except NodeError as error:
            raise Refused(500, "Server Error") from error


def _node(number: int, node: Node) -> Json:
    parts = urlsplit(node.address)
    return {
        "id": number,
        "uuid": node.uuid,
        "name": f"node {number}",
        "scheme": parts.scheme,
        "fqdn": parts.hostname,
        "daemon_listen": parts.port,
        "daemon_connect": parts.port,
        "memory": node.memory,
        "memory_overallocate": 0,
        "disk": 0,
        "disk_overallocate": 0,
        "cpu": 0,
        "cpu_overallocate": 0,
    }


def _allocation(found: Any) -> Json:
    return {
        "id": found.id,
        "ip": found.ip,
        "alias": None,
        "port": found.port,
        "notes": None,
        "assigned": bool(found.server),
    }
