"""The truth about nodes, servers and transfers, as a Panel keeps it. Knows nothing of HTTP."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import attrs

from tests.support.panel_backups import BackupRefused, PanelBackups
from tests.support.settings import Json, process_configuration
from tests.support.sftp_users import WRONG, SftpUsers
from wingsd.config import PTERODACTYL

_PLACEHOLDER = re.compile(r"\{\{([\w.-]*)\}\}")


def _values(settings: Json) -> dict[str, Any]:
    default = settings["allocations"]["default"]
    build = settings["build"]
    own = {
        "server.build.default.ip": default["ip"],
        "server.build.default.port": default["port"],
        "server.build.memory": build["memory_limit"],
    }
    # PHP's empty map is a list.
    for name, value in dict(settings["environment"]).items():
        own[f"server.build.env.{name}"] = own[f"env.{name}"] = value
    # Eggs of old name these three as if they were variables.
    for prefix in ("server.build.env.", "env."):
        own[f"{prefix}SERVER_IP"] = default["ip"]
        own[f"{prefix}SERVER_PORT"] = default["port"]
        own[f"{prefix}SERVER_MEMORY"] = build["memory_limit"]
    return own


def _filled(text: str, values: dict[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        key = found[1]
        # What begins with "config." is the node's to know.
        if not key.startswith(("server.", "env.")):
            return found[0]
        return str(values.get(key, ""))

    return _PLACEHOLDER.sub(value, text)


def resolved(process: Json, settings: Json) -> Json:
    """Return `process_configuration` with what `settings` say in place of `{{server.…}}`.

    So a server's files learn its new address after a move. The names are Pterodactyl's
    (its `EggConfigurationService`); one that means nothing becomes an empty text.
    """
    values = _values(settings)
    configs = [
        file | {"replace": [_replacement(entry, values) for entry in file["replace"]]}
        for file in process["configs"]
    ]
    return process | {"configs": configs}


def _replacement(entry: Json, values: dict[str, Any]) -> Json:
    wanted = entry["replace_with"]
    return entry | {"replace_with": _filled(wanted, values) if isinstance(wanted, str) else wanted}


# The truth about nodes, servers and transfers, as a Panel keeps it. Knows nothing of HTTP


class Refused(Exception):
    """The Panel will not do it: an HTTP status and the words for it."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@attrs.define(eq=False)
class Node:
    """One node as the Panel knows it; `ip` and `port` are what it gives to arriving servers.

    A node that is not `reachable` is only a name: it is never told to delete what has moved away.
    """

    address: str
    reachable: bool = False
    #: The PEM file of the authority its certificate is from; empty for the system's.
    ca: str = ""
    uuid: str = ""
    #: MiB that its servers may have together by the application API; 0 is no limit.
    memory: int = 0
    token_id: str = attrs.field(factory=lambda: secrets.token_hex(8))
    token: str = attrs.field(factory=lambda: secrets.token_hex(32), repr=False)
    ip: str = "127.0.0.1"
    port: int = 25566
    #: The family that the node takes itself for; its Panel's tokens are that family's.
    family: str = PTERODACTYL


@attrs.define(eq=False)
class Allocation:
    """A port of a node, and the server that has it, empty for none."""

    id: int
    node: Node
    ip: str
    port: int
    server: str = ""


@attrs.define
class _Server:
    settings: Json
    process_configuration: Json
    node: Node
    #: How its last installation ended, and what differs from the usual script that installs it.
    installed: bool | None = None
    script: Json = attrs.field(factory=dict)
    #: Whether it is shown as being installed.
    installing: bool = False
    #: The backup that it is shown as being restored from, empty for none, and how the last one
    #: has ended.
    restoring: str = ""
    restored: bool | None = None
    destination: Node | None = None
    #: The allocations there that its transfer was ordered with, the primary one first.
    chosen: tuple[int, ...] = ()

    def seen_by(self, node: Node) -> bool:
        return node in (self.node, self.destination)

    def described(self) -> Json:
        return {
            "settings": self.settings,
            "process_configuration": resolved(self.process_configuration, self.settings),
        }

    def move(self, node: Node, ip: str = "", ports: Sequence[int] = ()) -> None:
        self.node = node
        ip, ports = ip or node.ip, list(ports) or [node.port]
        self.settings["allocations"] |= {
            "default": {"ip": ip, "port": ports[0]},
            "mappings": {ip: ports},
        }


def is_activity(entry: Any) -> bool:
    """Return whether an entry of a node's activity passes a Panel's validation."""
    try:
        user, ip = entry["user"], entry["ip"]
        datetime.strptime(entry["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
        UUID(entry["server"])
        if user is not None:
            UUID(user)
        if ip is not None:
            # PHP's filter_var knows no zones.
            ip_address(ip if "%" not in ip else "")
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return isinstance(entry["event"], str) and isinstance(entry["metadata"], dict)


@attrs.define(eq=False)
class State:
    """All of it. A `strict` one refuses (403) a node that asks for a server that is not its."""

    strict: bool = False
    #: Servers that were being installed or restored when their node reported its restart: they are
    #: shown as that no more from then on.
    forgotten: list[str] = attrs.field(factory=list, init=False)
    #: The activity that nodes reported, of their own servers, in the form of the call.
    activity: list[Json] = attrs.field(factory=list, init=False)
    #: The states of servers that nodes reported, in order: server, previous and new state.
    statuses: list[tuple[str, str, str]] = attrs.field(factory=list, init=False)
    backups: PanelBackups = attrs.field(factory=PanelBackups, init=False)
    #: Who may log in by SFTP.
    sftp_users: SftpUsers = attrs.field(factory=SftpUsers, init=False)
    #: Those of the application API, by their ids.
    allocations: dict[int, Allocation] = attrs.field(factory=dict, init=False)
    _nodes: list[Node] = attrs.field(factory=list, init=False)
    _servers: dict[str, _Server] = attrs.field(factory=dict, init=False)

    # What tests and the demo say and ask.

    def add_node(self, address: str, **fields: Any) -> Node:
        """Make a node, with fresh credentials unless they are given (the fields of `Node`)."""
        node = Node(address, **fields)
        self._nodes.append(node)
        return node

    def add_server(self, settings: Json, node: Node, process: Json | None = None) -> None:
        process = process_configuration() if process is None else process
        server = _Server(copy.deepcopy(settings), copy.deepcopy(process), node)
        self._servers[settings["uuid"]] = server

    def add_allocation(self, node: Node, port: int, server: str = "", ip: str = "") -> Allocation:
        """Add a port to a node; `server` has it."""
        number = len(self.allocations) + 1
        made = self.allocations[number] = Allocation(number, node, ip or node.ip, port, server)
        return made

    def servers(self) -> list[str]:
        """Return the UUIDs of all servers; their ids in the application API count them from 1."""
        return list(self._servers)

    def numbered_nodes(self) -> list[tuple[int, Node]]:
        """Return all nodes with their ids."""
        return list(enumerate(self._nodes, 1))

    def remove_server(self, uuid: str) -> None:
        """Forget a server that was deleted at its node."""
        del self._servers[uuid]

    def knows(self, uuid: str) -> bool:
        return uuid in self._servers

    def open_transfer(self, uuid: str, destination: Node, chosen: tuple[int, ...] = ()) -> None:
        """Begin to move a server from its node to `destination`, with these allocations there."""
        self._servers[uuid].destination, self._servers[uuid].chosen = destination, chosen
        for each in chosen:
            self.allocations[each].server = uuid

    def close_transfer(self, uuid: str) -> None:
        """End a transfer without the word of a node, as an administrator does."""
        self._servers[uuid].destination = None

    def assign(self, uuid: str, node: Node) -> None:
        """Say that a server is at another node, as an administrator does after a move by hand."""
        self._servers[uuid].move(node)

    def node_of(self, uuid: str) -> Node:
        return self._servers[uuid].node

    def settings_of(self, uuid: str) -> Json:
        """Return a server's settings as a node would get them now; to be changed at will."""
        return self._servers[uuid].settings

    def in_transfer(self, uuid: str) -> bool:
        """Tell whether a transfer is open for a server."""
        return self._servers[uuid].destination is not None

    def installed(self, uuid: str) -> bool | None:
        return self._servers[uuid].installed

    # What nodes say and ask; every method may raise `Refused`.

    def node_with(self, token_id: str, token: str) -> Node:
        for node in self._nodes:
            if (node.token_id, node.token) == (token_id, token):
                return node
        raise Refused(403, "No node has these credentials.")

    def servers_of(self, node: Node) -> list[Json]:
        return [
            {"uuid": uuid, **server.described()}
            for uuid, server in self._servers.items()
            if server.node == node
        ]

    def describe(self, node: Node, uuid: str) -> Json:
        server = self._server(uuid)
        if self.strict and not server.seen_by(node):
            raise Refused(403, "That server is not this node's.")
        return server.described()

    def await_install(self, uuid: str) -> None:
        """Forget how the last installation of a server has ended."""
        self._servers[uuid].installed = None

    def show_installing(self, uuid: str) -> None:
        """Show a server as being installed until its node reports the end.

        A Panel commits that with the answer of the node, so that a reset before is without effect.
        """
        self._servers[uuid].installing = True

    def reset(self, node: Node) -> None:
        for uuid, server in self._servers.items():
            if server.node == node and (server.installing or server.restoring):
                server.installing, server.restoring = False, ""
                self.forgotten.append(uuid)

    def set_script(self, uuid: str, **script: Any) -> None:
        """Have a server installed by this script; the keys are those of the Panel's answer.

        Those that are missing are as usual: the server's own image, `sh`, and nothing to do.
        """
        self._servers[uuid].script = script

    def script_of(self, node: Node, uuid: str) -> Json:
        server = self._server(uuid)
        if server.node != node:
            raise Refused(403, "That server is not this node's.")
        image = server.settings["container"]["image"]
        usual = {"container_image": image, "entrypoint": "sh", "script": "exit 0\r\n"}
        return usual | server.script

    def finish_install(self, node: Node, uuid: str, successful: bool) -> None:
        server = self._server(uuid)
        if server.node != node:
            raise Refused(403, "That server is not this node's.")
        server.installed, server.installing = successful, False

    def show_restoring(self, uuid: str, backup: str) -> None:
        """Show a server as being restored from a backup until its node reports the end."""
        self._servers[uuid].restoring, self._servers[uuid].restored = backup, None

    def restoring(self, uuid: str) -> str:
        """Return the backup that a server is shown as being restored from, empty for none."""
        return self._servers[uuid].restoring

    def restored(self, uuid: str) -> bool | None:
        """Return how the last restore of a server has ended, None before its node has told."""
        return self._servers[uuid].restored

    def finish_restore(self, node: Node, backup: str, body: Any) -> None:
        if not isinstance(body, dict) or "successful" not in body:
            raise Refused(422, "The successful field is required.")
        for server in self._servers.values():
            if server.restoring == backup:
                if server.node != node:
                    raise Refused(403, "That server is not this node's.")
                server.restored, server.restoring = bool(body["successful"]), ""
                return
        raise Refused(404, "There is no such backup.")

    def finish_transfer(self, node: Node, uuid: str, outcome: str) -> Node | None:
        """Close a transfer; on success the server and its allocation move to the destination.

        Return the node it moved away from, if it did.
        """
        server = self._server(uuid)
        if server.destination is None:
            raise Refused(409, "No transfer of that server is open.")
        if not server.seen_by(node) or (outcome == "success" and node != server.destination):
            raise Refused(403, "That transfer is not this node's to report.")
        source, there, chosen = server.node, server.destination, server.chosen
        server.destination, server.chosen = None, ()
        left = source if outcome == "success" else there
        for each in self.allocations.values():
            if each.server == uuid and each.node is left:
                each.server = ""
        if outcome != "success":
            return None
        ports = [self.allocations[each] for each in chosen]
        server.move(node, ports[0].ip if ports else "", [each.port for each in ports])
        return source

    def report_activity(self, node: Node, entries: Any) -> None:
        """Take all entries, or refuse the call for one that is not what a Panel reads."""
        if not isinstance(entries, list) or not all(map(is_activity, entries)):
            raise Refused(422, "The data.0.metadata field must be an array.")
        for entry in entries:
            server = self._servers.get(entry["server"])
            # What else there is, a Panel leaves out without a word.
            if server is not None and server.node == node and entry["event"].startswith("server:"):
                self.activity.append(entry)

    def sftp_access(self, node: Node, login: Any) -> Json:
        found = self.sftp_users.access(login)
        if found is None or self._server(found["server"]).node != node:
            raise Refused(403, WRONG)
        return found

    def report_status(self, node: Node, uuid: str, status: Any) -> None:
        server = self._server(uuid)
        if server.node != node:
            raise Refused(403, "That server is not this node's.")
        if not isinstance(status, dict) or set(status) != {"previous_state", "new_state"}:
            raise Refused(422, "The data.new_state field is required.")
        self.statuses.append((uuid, status["previous_state"], status["new_state"]))

    def sign_backup(self, node: Node, uuid: str, query: str) -> Json:
        """Return signed URLs of a backup's parts, as `query` asks for them."""
        try:
            if self._server(self.backups.server_of(uuid)).node != node:
                raise Refused(403, "That backup is not this node's.")
            return self.backups.sign(uuid, query)
        except BackupRefused as error:
            raise Refused(error.status, error.detail) from error

    def report_backup(self, node: Node, uuid: str, rest: list[str], body: Any) -> None:
        """Take what a node reports about a backup."""
        try:
            if self._server(self.backups.server_of(uuid)).node != node:
                raise Refused(403, "That backup is not this node's.")
            self.backups.report(uuid, rest, body)
        except BackupRefused as error:
            raise Refused(error.status, error.detail) from error

    def _server(self, uuid: str) -> _Server:
        if uuid not in self._servers:
            raise Refused(404, "There is no such server.")
        return self._servers[uuid]
