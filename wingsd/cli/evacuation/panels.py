"""Clients of the Panels' APIs for administrators: servers, nodes, ports, orders of transfers.

The key is the operator's. It is read from a file of his, sent to the Panel alone, and written
nowhere. Blocking.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, ClassVar, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, build_opener

import attrs

from wingsd import __version__
from wingsd.cli.client import CtlError, Json, NoRedirects
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.util.retry import seconds_asked_for
from wingsd.util.text import escaped

T = TypeVar("T")

#: Seconds for the Panel to answer. It asks the node before it answers an order.
TIMEOUT = 60.0
#: Bytes of an answer at most.
MAX_ANSWER = 64 * 1024 * 1024
#: Entries of a page: the most that all Panels give.
PER_PAGE = 100
#: How often a request is sent that is answered with 429, and seconds between without Retry-After.
ATTEMPTS, PAUSE = 6, 10.0
#: The user whose files any other one may trust.
_TRUSTED_USER = 0
#: Bytes of a file with a key at most.
_MAX_KEY = 4096
#: Of a Panel's amounts: no limit.
_UNLIMITED = -1


def read_key(path: str) -> str:
    """Return the key in a file that no other user can read. Raises `CtlError`."""
    try:
        with open(path, encoding="ascii") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MAX_KEY + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a key"
        raise CtlError(
            f"{path} cannot be read: {reason}", "write the Panel's API key to it"
        ) from error
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (_TRUSTED_USER, os.geteuid()):
        raise CtlError(f"{path} is not a file of yours", "an API key belongs to one user alone")
    if status.st_mode & 0o077:
        raise CtlError(f"other users can read {path}", f"run: chmod 600 {path}")
    key = text.strip()
    if not key or len(text) > _MAX_KEY or not key.isprintable() or " " in key:
        raise CtlError(f"{path} has no API key", "write the key to it, and nothing else")
    return key


class PanelError(CtlError):
    """The Panel refused a request, or did not answer.

    `is_certain` is True if it has not done what was asked for. `status` is that of its answer, 0
    without one.
    """

    def __init__(self, message: str, detail: str, status: int = 0, *, is_certain: bool) -> None:
        super().__init__(message, detail)
        self.status = status
        self.is_certain = is_certain

    @property
    def refuses_key(self) -> bool:
        """True if no request with this key will succeed."""
        return self.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@attrs.frozen
class Port:
    """An allocation: an address of a node. `is_free` if no server has it."""

    id: str
    ip: str
    port: int
    is_free: bool = False


@attrs.frozen
class PanelServer:
    """A server as the Panel has it. Memory and disk are in MiB, CPU in percent; 0 is no limit.

    The first of `ports` is the primary one. `is_moving` is None where the Panel does not tell.
    """

    id: str
    uuid: str
    name: str
    node: str
    memory: int
    disk: int
    cpu: int
    threads: str
    ports: tuple[Port, ...]
    is_moving: bool | None


@attrs.frozen
class PanelNode:
    """A node as the Panel has it. The limits include overallocation; None is no limit."""

    id: str
    uuid: str
    name: str
    url: str
    memory: int | None
    disk: int | None
    cpu: int | None


@attrs.define(eq=False, repr=False)
class Panel:
    """The client of a Panel at `url` with a `key`; `sleep` waits for seconds.

    All methods raise `PanelError`.
    """

    #: The family of the Panel, and whether it takes orders of transfers.
    family: ClassVar[str] = ""
    takes_orders: ClassVar[bool] = True
    _accept: ClassVar[str] = "application/json"

    url: str
    _key: str
    _sleep: Callable[[float], None] = time.sleep

    def nodes(self) -> list[PanelNode]:
        """Return all nodes."""
        raise NotImplementedError

    def servers(self, nodes: Sequence[str]) -> list[PanelServer]:
        """Return the servers of the nodes with these ids."""
        raise NotImplementedError

    def server(self, server: str) -> PanelServer | None:
        """Return the server with an id, None if there is none."""
        raise NotImplementedError

    def ports(self, node: str) -> list[Port]:
        """Return the allocations of the node with an id."""
        raise NotImplementedError

    def order(self, server: str, node: str, ports: Sequence[str]) -> None:
        """Order the transfer of a server to a node; the first of `ports` is the primary one."""
        raise NotImplementedError

    def release(self, server: str) -> None:
        """End a transfer in the Panel of which no node knows."""
        raise NotImplementedError

    def page(self, server: str) -> str:
        """Return the address of the page on which an administrator moves a server."""
        raise NotImplementedError

    def _entry(self, path: str) -> Any:
        """Return the answer about a single thing, None if there is none."""
        try:
            return self._ask("GET", path)
        except PanelError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _made(self, make: Callable[[Json], T], found: Iterable[Json]) -> list[T]:
        """Return what `make` makes of each part of an answer."""
        try:
            return [make(each) for each in found]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise PanelError(
                f"the answer of {self.url} is not that of a Panel of the family {self.family}",
                "name the right one with --family, and its address with --panel",
                is_certain=False,
            ) from error

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        """Return the decoded answer, None for an empty one. A request is repeated after a 429."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._ask_once(method, path, content)
            except HTTPError as error:
                with error:
                    wish = seconds_asked_for(error.headers.get("Retry-After", "")) or PAUSE
                    if error.code != HTTPStatus.TOO_MANY_REQUESTS or attempt == ATTEMPTS:
                        raise self._refusal(error) from error
            self._sleep(min(wish, TIMEOUT))
        raise AssertionError  # the last attempt returns or raises

    def _ask_once(self, method: str, path: str, content: object) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Accept": self._accept,
            "Content-Type": "application/json",
            "User-Agent": f"wingsd/{__version__}",
        }
        url = f"{self.url}{path}"
        request = Request(url, body, headers, method=method)  # noqa: S310 - checked: http(s)
        try:
            with build_opener(NoRedirects).open(request, timeout=TIMEOUT) as answer:
                text = answer.read(MAX_ANSWER + 1)
        except HTTPError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PanelError(
                f"the Panel at {self.url} does not answer: {reason}",
                "see whether this machine can reach it, and whether the address is right",
                is_certain=isinstance(reason, ConnectionRefusedError),
            ) from error
        if not text:
            return None
        try:
            return json.loads(text if len(text) <= MAX_ANSWER else b"")
        except (ValueError, RecursionError) as error:
            raise PanelError(
                f"{url} answered with something that is not JSON",
                "see whether --panel is the Panel's own address, and no proxy's page answers",
                is_certain=False,
            ) from error

    def _refusal(self, error: HTTPError) -> PanelError:
        status = error.code
        words = _words_of(error)
        match status:
            case HTTPStatus.UNAUTHORIZED:
                text, advice = "does not accept the API key", "make another one in the Panel"
            case HTTPStatus.FORBIDDEN:
                text = "does not allow this with the API key"
                advice = f"give the key the rights that docs/evacuate.md lists for {self.family}"
            case HTTPStatus.NOT_FOUND:
                text = "has no such server, node or path"
                advice = f"see whether --panel is right, and --family: {self.family} was assumed"
            case HTTPStatus.NOT_ACCEPTABLE:
                text = "says that the node has no room for the server"
                advice = "raise the node's memory, disk or CPU in the Panel, or its overallocation"
            case _ if status in range(300, 400):
                text = f"leads to {error.headers.get('Location', 'another address')}"
                advice = "give that address as --panel"
            case _:
                text = f"answered {status}"
                advice = "see the Panel's own log"
        return PanelError(
            f"the Panel {text} ({status})" + (f": {words}" if words else ""),
            advice,
            status,
            is_certain=status < HTTPStatus.INTERNAL_SERVER_ERROR,
        )


def _words_of(error: HTTPError) -> str:
    """Return the first message of a Panel's JSON about an error, empty for a page of HTML."""
    with suppress(OSError, HTTPException, ValueError, RecursionError, LookupError, TypeError):
        answer = json.loads(error.read(MAX_ANSWER))
        errors = answer["errors"]
        return escaped(str(errors[0]["detail"] if isinstance(errors[0], dict) else errors[0]))
    return ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


class _Laravel(Panel):
    """The application API that Pterodactyl's and Pelican's Panels share."""

    _accept = "application/vnd.pterodactyl.v1+json"
    _root = "/api/application"

    def nodes(self) -> list[PanelNode]:
        """Return all nodes."""
        return self._made(_laravel_node, self._pages(f"{self._root}/nodes?"))

    def servers(self, nodes: Sequence[str]) -> list[PanelServer]:
        """Return the servers of these nodes."""
        found = self._pages(f"{self._root}/servers?include=allocations&")
        return [each for each in self._made(_laravel_server, found) if each.node in nodes]

    def server(self, server: str) -> PanelServer | None:
        """Return a server, None if there is none."""
        found = self._entry(f"{self._root}/servers/{quote(server)}?include=allocations")
        return found and self._made(lambda each: _laravel_server(each["attributes"]), [found])[0]

    def ports(self, node: str) -> list[Port]:
        """Return the allocations of a node."""
        path = f"{self._root}/nodes/{quote(node)}/allocations?"
        return self._made(_laravel_port, self._pages(path))

    def _pages(self, path: str) -> Iterator[Json]:
        number, last = 1, 1
        while number <= last:
            found = self._ask("GET", f"{path}per_page={PER_PAGE}&page={number}")
            yield from (each["attributes"] for each in found["data"])
            last = int(found["meta"]["pagination"]["total_pages"])
            number += 1


def _laravel_node(found: Json) -> PanelNode:
    port = found.get("daemon_connect") or found["daemon_listen"]
    return PanelNode(
        id=str(found["id"]),
        uuid=str(found.get("uuid", "")),
        name=str(found["name"]),
        url=f"{found['scheme']}://{found['fqdn']}:{port}",
        memory=_limit(found, "memory"),
        disk=_limit(found, "disk"),
        cpu=_limit(found, "cpu"),
    )


def _limit(node: Json, name: str) -> int | None:
    """Return how much of a node its servers may have together, None for no limit."""
    amount, over = _whole(node.get(name)), _whole(node.get(f"{name}_overallocate"))
    return None if amount <= 0 or over <= _UNLIMITED else amount * (100 + over) // 100


def _laravel_port(found: Json) -> Port:
    return Port(str(found["id"]), str(found["ip"]), int(found["port"]), not found["assigned"])


def _laravel_server(found: Json) -> PanelServer:
    limits = found["limits"]
    listed = found.get("relationships", {}).get("allocations", {}).get("data", ())
    ports = [_laravel_port(each["attributes"]) for each in listed]
    ports.sort(key=lambda each: each.id != str(found["allocation"]))
    return PanelServer(
        id=str(found["id"]),
        uuid=str(found["uuid"]).lower(),
        name=str(found["name"]),
        node=str(found["node"]),
        memory=_whole(limits["memory"]),
        disk=_whole(limits["disk"]),
        cpu=_whole(limits["cpu"]),
        threads=str(limits.get("threads") or ""),
        ports=tuple(ports),
        is_moving=None,
    )


class PelicanPanel(_Laravel):
    """Pelican's application API.

    Its answer to an order says only that the Panel has the transfer, not that the node took it.
    """

    family = PELICAN

    def order(self, server: str, node: str, ports: Sequence[str]) -> None:
        """Order a transfer."""
        body = {
            "node_id": int(node),
            "allocation_id": int(ports[0]) if ports else None,
            "allocation_additional": [int(each) for each in ports[1:]],
        }
        self._ask("POST", f"{self._root}/servers/{quote(server)}/transfer", body)

    def release(self, server: str) -> None:
        """End a transfer of which no node knows."""
        try:
            self._ask("POST", f"{self._root}/servers/{quote(server)}/transfer/cancel")
        except PanelError as error:
            # 406: there is none. Others come from the nodes, which are asked after the release.
            if error.status < HTTPStatus.NOT_ACCEPTABLE:
                raise

    def page(self, server: str) -> str:
        """Return the address of a server's page."""
        return f"{self.url}/admin/servers/{quote(server)}/edit"


class PterodactylPanel(_Laravel):
    """Pterodactyl's application API, which orders no transfers: a person does, on its page."""

    family = PTERODACTYL
    takes_orders = False

    def page(self, server: str) -> str:
        """Return the address of a server's page."""
        return f"{self.url}/admin/servers/view/{quote(server)}/manage"


class CalagopusPanel(Panel):
    """Calagopus' API for administrators. Ids are UUIDs."""

    family = CALAGOPUS
    _root = "/api/admin"

    def nodes(self) -> list[PanelNode]:
        """Return all nodes."""
        return self._made(_calagopus_node, self._pages(f"{self._root}/nodes", "nodes"))

    def servers(self, nodes: Sequence[str]) -> list[PanelServer]:
        """Return the servers of these nodes."""
        return [
            server
            for node in nodes
            for server in self._made(
                self._server, self._pages(f"{self._root}/nodes/{quote(node)}/servers", "servers")
            )
        ]

    def server(self, server: str) -> PanelServer | None:
        """Return a server, None if there is none."""
        found = self._entry(f"{self._root}/servers/{quote(server)}")
        return found and self._made(lambda each: self._server(each["server"]), [found])[0]

    def _server(self, found: Json) -> PanelServer:
        limits, uuid = found["limits"], str(found["uuid"])
        listed = self._pages(f"{self._root}/servers/{quote(uuid)}/allocations", "allocations")
        ports = sorted(listed, key=lambda each: not each["is_primary"])
        return PanelServer(
            id=uuid,
            uuid=uuid.lower(),
            name=str(found["name"]),
            node=str(found["node"]["uuid"]),
            memory=_whole(limits["memory"]) + _whole(limits.get("memory_overhead")),
            disk=_whole(limits["disk"]),
            cpu=_whole(limits["cpu"]),
            threads=",".join(map(str, found.get("pinned_cpus") or ())),
            ports=tuple(Port(str(each["uuid"]), str(each["ip"]), each["port"]) for each in ports),
            is_moving=bool(found.get("is_transferring")),
        )

    def ports(self, node: str) -> list[Port]:
        """Return the allocations of a node."""
        found = self._pages(f"{self._root}/nodes/{quote(node)}/allocations", "allocations")
        return self._made(
            lambda each: Port(
                str(each["uuid"]), str(each["ip"]), each["port"], each["server"] is None
            ),
            found,
        )

    def order(self, server: str, node: str, ports: Sequence[str]) -> None:
        """Order a transfer."""
        body = {
            "node_uuid": node,
            "allocation_uuid": ports[0] if ports else None,
            "allocation_uuids": list(ports[1:]),
            "backups": [],
            "delete_source_backups": False,
            "archive_format": "tar_zstd",
            "multiplex_channels": 0,
        }
        self._ask("POST", f"{self._root}/servers/{quote(server)}/transfer", body)

    def release(self, server: str) -> None:
        """End a transfer of which no node knows."""
        self._ask("POST", f"{self._root}/servers/{quote(server)}/clear-state")

    def page(self, server: str) -> str:
        """Return the address of a server's page."""
        return f"{self.url}/admin/servers/{quote(server)}"

    def _pages(self, path: str, name: str) -> Iterator[Json]:
        number, left = 1, 1
        while left > 0:
            found = self._ask("GET", f"{path}?per_page={PER_PAGE}&page={number}")[name]
            yield from found["data"]
            left = int(found["total"]) - number * PER_PAGE
            number += 1


def _calagopus_node(found: Json) -> PanelNode:
    return PanelNode(
        id=str(found["uuid"]),
        uuid=str(found["uuid"]),
        name=str(found["name"]),
        url=str(found["url"]),
        memory=_whole(found.get("memory")) or None,
        disk=_whole(found.get("disk")) or None,
        cpu=None,
    )


#: The clients by the families of their Panels.
PANELS: dict[str, type[Panel]] = {
    each.family: each for each in (PelicanPanel, PterodactylPanel, CalagopusPanel)
}


def node_of(nodes: Sequence[PanelNode], wanted: str) -> PanelNode:
    """Return the node with an id, UUID, name or address. Raises `CtlError`."""
    address = urlsplit(wanted).netloc
    found = [
        each
        for each in nodes
        if wanted in (each.id, each.uuid, each.name)
        or (address and urlsplit(each.url).netloc == address)
    ]
    if len(found) != 1:
        names = ", ".join(sorted(escaped(each.name) for each in nodes))
        raise CtlError(
            f"the Panel has {'several nodes' if found else 'no node'} {escaped(wanted)!r}",
            f"its nodes are {names}",
        )
    return found[0]
