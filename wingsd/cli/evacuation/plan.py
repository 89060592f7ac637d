"""The plan of an evacuation: which servers fit at the other node, with which ports, and its file.

Whether they fit is decided for all together, the largest first. The file has everything that a run
of the command needs to go on with the plan, but no key.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

import attrs

from wingsd.cli.client import ControlClient, CtlError, Json
from wingsd.cli.evacuation.panels import Panel, PanelNode, PanelServer, Port, node_of
from wingsd.cli.output import size
from wingsd.config import PELICAN
from wingsd.config_file.editing import replace_file
from wingsd.errors import InvalidData
from wingsd.util.serialization import structure, unstructure
from wingsd.util.text import canonical_uuid, disk_advice, escaped

#: The form of the file.
VERSION = 1
MIB = 1024 * 1024
#: Bytes of a file of a plan at most.
_MAX_FILE = 64 * 1024 * 1024
#: Seconds for which a server is expected to be down besides the stop and start of its program.
BESIDES_RESTART = 1.0
#: Seconds from an order until a server has moved, besides those for which it is down.
BESIDES_DOWNTIME = 4.0
#: Ports of the Panel, none of them in use on the machine.
NO_PORTS = "the destination has not enough free ports"
#: The Panel's view differs from the node's.
NOT_HERE = "the Panel has it here, this node does not"
#: Machines as the engine names them.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class State(Enum):
    """The state of a server's evacuation."""

    WAITING = "waiting"
    #: Its transfer was ordered, and has not ended.
    ORDERED = "ordered"
    MOVED = "moved"
    #: All attempts have failed.
    FAILED = "failed"
    #: It does not fit.
    LEFT_OUT = "left out"
    #: It was deleted, or moved to another node by somebody else.
    GONE = "gone"
    #: The evacuation was cancelled before its transfer was ordered.
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """True if the server is still to be moved."""
        return self in (State.WAITING, State.ORDERED)


@attrs.define
class Entry:
    """A server of the plan.

    `id` and `ports` are the Panel's ids of the server and of its ports at the destination;
    `addresses` are its ports before and `new_addresses` those at the destination, as IP:PORT.
    """

    uuid: str
    id: str
    name: str
    bytes: int
    is_running: bool
    addresses: tuple[str, ...] = ()
    new_addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    #: Seconds for which it is expected to be down.
    expected: float = 0.0
    state: State = State.WAITING
    #: Why it is left out, or why the last attempt has failed.
    reason: str = ""
    #: Attempts that have failed.
    tries: int = 0
    #: The number of the source's last transfer before the order.
    after: int = 0
    #: Unix time of the order and of its end.
    ordered: float = 0.0
    ended: float = 0.0
    #: Seconds for which it was down; None if it was off, or that is not known.
    downtime: float | None = None

    @property
    def moves_port(self) -> bool:
        """True if its players need another port."""
        return [_port(each) for each in self.addresses] != [
            _port(each) for each in self.new_addresses
        ]


def _port(address: str) -> str:
    return address.rpartition(":")[2]


@attrs.frozen
class NodeName:
    """A node by its id in the Panel, with its UUID and name."""

    id: str
    uuid: str
    name: str


@attrs.define
class Plan:
    """The servers of a node and where they go.

    `pair` is the source's name of the destination. `at_once` servers are between stop and start at
    a time, `seeds` are sent whole at a time; `max_downtime` is in seconds. `rate` is that of the
    line in bytes a second, 0 if it is not known.
    """

    version: int
    panel: str
    family: str
    source: NodeName
    destination: NodeName
    pair: str
    created: float
    servers: tuple[Entry, ...]
    at_once: int = 2
    seeds: int = 4
    max_downtime: float = 5.0
    rate: float = 0.0
    #: Whether the destination starts servers that ran before they moved.
    starts_moved: bool = True

    def of(self, *states: State) -> list[Entry]:
        """Return the servers in these states."""
        return [each for each in self.servers if each.state in states]

    @property
    def is_over(self) -> bool:
        """True if no server is still to be moved."""
        return not any(each.state.is_open for each in self.servers)

    @property
    def has_succeeded(self) -> bool:
        """True if all servers have moved that still exist."""
        return all(each.state in (State.MOVED, State.GONE) for each in self.servers)

    @property
    def seconds_of_copies(self) -> float | None:
        """How long sending the files takes, None while the rate of the line is not known."""
        left = sum(each.bytes for each in self.servers if each.state.is_open)
        return left / self.rate if self.rate else None

    @property
    def seconds_of_moves(self) -> float:
        """How long all transfers take, one after the other as `at_once` says."""
        left = [each for each in self.servers if each.state.is_open]
        return sum(each.expected + BESIDES_DOWNTIME for each in left) / self.at_once


class PlanError(CtlError):
    """The file of a plan cannot be read or written."""


def load(path: str) -> Plan:
    """Read a plan. Raises `PlanError`."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_FILE + 1)
        found = json.loads(text if len(text) <= _MAX_FILE else b"")
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read: {error.strerror or error}",
            "wingsctl evacuate --to NODE makes a plan",
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not a plan: it is not JSON", _NOT_A_PLAN) from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise PlanError(
            f"{path} is not a plan of the version {VERSION}",
            "go on with it by the wingsctl that made it" if version else _NOT_A_PLAN,
        )
    try:
        plan = structure(found, Plan)
    except InvalidData as error:
        first = str(error).splitlines()[0]
        raise PlanError(f"{path} is not a plan: {first}", _NOT_A_PLAN) from error
    uuids = [each.uuid for each in plan.servers]
    if len(set(uuids)) < len(uuids) or any(canonical_uuid(each) != each for each in uuids):
        raise PlanError(f"{path} is not a plan: a UUID is invalid or there twice", _NOT_A_PLAN)
    if plan.at_once < 1 or plan.seeds < 1:
        raise PlanError(f"{path} is not a plan: at_once and seeds are at least 1", _NOT_A_PLAN)
    return plan


_NOT_A_PLAN = "name the file that wingsctl evacuate has written"


def save(plan: Plan, path: str) -> None:
    """Write a plan in one step, to be read by its owner alone. Raises `PlanError`."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, json.dumps(unstructure(plan), indent=1).encode())
    except OSError as error:
        raise PlanError(
            f"{path} cannot be written: {disk_advice(error)}", "name another file with --plan"
        ) from error


def make(
    client: ControlClient, panel: Panel, pair: str, only: Mapping[str, object] | None = None
) -> Plan:
    """Return the plan for all servers of this node.

    `only` has the UUIDs of the servers to be moved. Raises `CtlError`.
    """
    found: Json = client.ask("GET", "evacuation?since=0")
    nodes = panel.nodes()
    here = node_of(nodes, found["node"]["uuid"])
    known = [each for each in found["servers"] if only is None or each["server"] in only]
    take_elsewhere(known, pair)
    facts = _ask_facts(client, pair, known, [])
    there = node_of(nodes, facts["uuid"])
    if there.id == here.id:
        raise CtlError("the destination is this node", "name another one with --to")
    at_panel = panel.servers([here.id, there.id])
    ports = panel.ports(there.id)
    wanted = [_asked(each) for each in ports if each.is_free][:_MOST_PORTS]
    facts = _ask_facts(client, pair, known, wanted)
    if facts["maintenance"]:
        raise CtlError(
            f"{there.name} is in maintenance and takes no servers",
            "run there: wingsctl maintenance off",
        )
    servers = {each.uuid: each for each in at_panel if each.node == here.id}
    entries = [_entry(each, servers.get(each["server"])) for each in known]
    known_uuids = {each["server"] for each in found["servers"]}
    for server in servers.values():
        if server.uuid not in known_uuids and (only is None or server.uuid in only):
            entry = Entry(server.uuid, server.id, server.name, 0, False)
            entry.state, entry.reason = State.LEFT_OUT, NOT_HERE
            entries.append(entry)
    for entry in entries:
        entry.after = found["last_transfer"]
    beside = [each for each in at_panel if each.node == there.id]
    _fit(entries, {each["server"]: each for each in known}, servers, beside, there, facts, panel)
    _give_ports(entries, servers, ports, set(facts["ports_busy"]))
    return Plan(
        version=VERSION,
        panel=panel.url,
        family=panel.family,
        source=NodeName(here.id, here.uuid, here.name),
        destination=NodeName(there.id, there.uuid, there.name),
        pair=pair,
        created=found["now"],
        # small ones first, as they are sent
        servers=tuple(sorted(entries, key=lambda each: each.bytes)),
        rate=measured_rate(found),
        starts_moved=facts["starts_moved"],
    )


def take_elsewhere(servers: Iterable[Json], pair: str) -> set[str]:
    """Take copies out of a snapshot that go to other nodes than a pair's; return their servers."""
    found = [each for each in servers if each["seed"] and each["seed"]["pair"] != pair]
    for each in found:
        each["seed"] = None
    return {each["server"] for each in found}


#: Ports of which the destination is asked at most.
_MOST_PORTS = 10_000


def _ask_facts(
    client: ControlClient, pair: str, servers: Sequence[Json], ports: Sequence[str]
) -> Json:
    request = {
        "images": sorted({each["image"] for each in servers}),
        "ports": list(ports),
        "mounts": sorted({mount for each in servers for mount in each["mounts"]}),
        "servers": [each["server"] for each in servers],
    }
    facts: Json = client.ask("POST", f"pairs/{pair}/facts", request)
    return facts


def measured_rate(found: Json) -> float:
    """Return the best rate of a snapshot's copies and past transfers, in bytes a second, or 0."""
    seeds = [each["seed"]["bytes_per_second"] for each in found["servers"] if each["seed"]]
    past = [
        (each["bytes"] or 0) / (each["ended"] - each["begun"])
        for each in found["ended"]
        if each["outcome"] == "success" and each["ended"] - each["begun"] > 1
    ]
    return max((*seeds, *past), default=0.0) or 0.0


def _entry(found: Json, server: PanelServer | None) -> Entry:
    entry = Entry(
        uuid=found["server"],
        id=server.id if server else "",
        name=found["name"],
        bytes=found["disk_bytes"] or 0,
        is_running=found["state"] != "offline",
    )
    if entry.is_running:
        predicted = (found["seed"] or {}).get("predicted_downtime")
        entry.expected = predicted or found["restart_seconds"] + BESIDES_RESTART
    return entry


@attrs.define
class _Room:
    """The free amount of a resource at the destination; None without a limit."""

    name: str
    left: int | None
    unit: int = MIB

    def lacks(self, need: int) -> str:
        """Return what is missing for `need`, empty if it fits."""
        if self.left is None or need <= self.left:
            return ""
        return (
            f"{self.name}: it needs {self._text(need)}, {self._text(max(self.left, 0))} are left"
        )

    def _text(self, amount: int) -> str:
        return size(amount * self.unit) if self.unit else str(amount)


def _fit(
    entries: Iterable[Entry],
    known: Mapping[str, Json],
    servers: Mapping[str, PanelServer],
    beside: Sequence[PanelServer],
    there: PanelNode,
    facts: Json,
    panel: Panel,
) -> None:
    """Leave out the servers that do not fit beside the others, the largest first."""
    pair = facts["pair"]

    def rest(limit: int | None, amounts: Iterable[int]) -> int | None:
        return None if limit is None else limit - sum(amounts)

    rooms = (
        _Room("disk", facts["free_bytes"], 1),
        _Room("bytes of the pair", pair["bytes"] - pair["used_bytes"], 1),
        _Room("servers of the pair", pair["servers"] - pair["used_servers"], 0),
        _Room("the Panel's memory", rest(there.memory, (each.memory for each in beside))),
        _Room("the Panel's disk", rest(there.disk, (each.disk for each in beside))),
        _Room("the Panel's CPU in percent", rest(there.cpu, (each.cpu for each in beside)), 0),
    )
    for entry in sorted(entries, key=lambda each: -each.bytes):
        if not entry.state.is_open:
            continue
        found, server = known[entry.uuid], servers.get(entry.uuid)
        entry.reason = next(_obstacles(found, server, facts, panel), "")
        if server is not None and not entry.reason:
            # What has arrived, or is on its way, the destination has counted.
            is_there = found["seed"] is not None and (
                found["seed"]["state"] in ("sending", "following")
                or found["seed"]["whole_at"] is not None
            )
            arriving = 0 if is_there else entry.bytes
            # What is kept there of one that comes back takes the place of what is sent.
            on_disk = 0 if entry.uuid in facts.get("servers_moved", ()) else arriving
            needs = (on_disk, arriving, int(not is_there), server.memory, server.disk, server.cpu)
            lacking = [room.lacks(need) for room, need in zip(rooms, needs, strict=True)]
            entry.reason = next(filter(None, lacking), "")
            for room, need in zip(rooms, needs, strict=True):
                if room.left is not None and not entry.reason:
                    room.left -= need
        if entry.reason:
            entry.state = State.LEFT_OUT


def _obstacles(
    found: Json, server: PanelServer | None, facts: Json, panel: Panel
) -> Iterator[str]:
    """Yield why a server cannot move, whatever room there is."""
    if server is None:
        yield "the Panel does not have it at this node"
        return
    if server.is_moving or found["order"] is not None:
        yield "it is in a transfer already"
    if found["hold"]:
        yield f"it is held: {escaped(found['hold'])}"
    if not server.ports and panel.family == PELICAN:
        yield "it has no port, and Pelican's API moves no server without one"
    if server.uuid in facts["servers_here"]:
        yield "the destination has a server of this UUID already"
    yield from _lacks(found, server, facts)


def _lacks(found: Json, server: PanelServer, facts: Json) -> Iterator[str]:
    """Yield what the destination's machine does not have for a server."""
    for mount in found["mounts"]:
        if mount in facts["mounts_refused"]:
            yield f"its mount {escaped(mount)} is not allowed, or missing, at the destination"
    here, there = platform.machine(), facts["architecture"]
    if _ARCHITECTURES.get(here, here) != there and found["image"] not in facts["images"]:
        yield f"its image may not exist for {there}: pull {escaped(found['image'])} there first"
    if _last_cpu(server.threads) >= facts["cpus"]:
        yield f"it is bound to the CPUs {escaped(server.threads)} of {facts['cpus']} there"
    if server.memory * MIB > facts["memory_bytes"]:
        yield f"it needs {size(server.memory * MIB)} of memory, more than the machine has"


def _last_cpu(threads: str) -> int:
    """Return the highest number in a set of CPUs such as 0-3,8; -1 for none."""
    numbers = threads.replace("-", ",").split(",")
    return max((int(each) for each in numbers if each.strip().isdecimal()), default=-1)


def _give_ports(
    entries: Iterable[Entry],
    servers: Mapping[str, PanelServer],
    ports: Sequence[Port],
    busy: set[str],
) -> None:
    """Give each server ports at the destination; leave out those for which there are none."""
    there = {each.id: each for each in ports}
    chosen = [each for each in entries if each.state.is_open]
    wanted = {}
    for entry in chosen:
        # Without those at the destination, which a lost order has left to it.
        mine = [each for each in servers[entry.uuid].ports if each.id not in there]
        entry.addresses = tuple(map(_address, mine))
        wanted[entry.uuid] = tuple(each.port for each in mine)
    free = [each for each in ports if each.is_free and _asked(each) not in busy]
    given = assigned(wanted, free)
    for entry in chosen:
        found = given.get(entry.uuid)
        if found is None:
            entry.state = State.LEFT_OUT
            entry.reason = NO_PORTS
        else:
            entry.ports = tuple(each.id for each in found)
            entry.new_addresses = tuple(map(_address, found))


def _asked(port: Port) -> str:
    """Return a port as the destination is asked about it: IPv6 without brackets."""
    return f"{port.ip}:{port.port}"


def _address(port: Port) -> str:
    return f"[{port.ip}]:{port.port}" if ":" in port.ip else f"{port.ip}:{port.port}"


def assigned(
    wanted: Mapping[str, Sequence[int]], free: Iterable[Port]
) -> dict[str, tuple[Port, ...]]:
    """Return ports for each server, by its UUID; servers for which there are too few are missing.

    A server gets its own port where that is free, on the address that has most of its ports, else
    the next free one above, else the lowest. No server gets a port that another one has already.
    """
    left: dict[str, dict[int, Port]] = defaultdict(dict)
    for port in free:
        left[port.ip][port.port] = port
    address: dict[str, str] = {}
    found: dict[str, list[Port | None]] = {}
    for uuid, numbers in wanted.items():
        best = max(left, key=lambda ip: sum(each in left[ip] for each in numbers), default="")
        address[uuid] = best
        found[uuid] = [left[best].pop(each, None) for each in numbers]
    for uuid, numbers in wanted.items():
        for index, number in enumerate(numbers):
            if found[uuid][index] is None:
                found[uuid][index] = _next_free(left, address[uuid], number)
    return {
        uuid: tuple(each for each in ports if each is not None)
        for uuid, ports in found.items()
        if None not in ports
    }


def _next_free(left: Mapping[str, dict[int, Port]], ip: str, number: int) -> Port | None:
    """Take the next free port of an address, or of any other one if that has none."""
    for each in sorted(left, key=lambda other: other != ip):
        numbers = left[each]
        if numbers:
            above = [other for other in numbers if other > number]
            return numbers.pop(min(above or numbers))
    return None


def renew_ports(entry: Entry, panel: Panel, plan: Plan) -> None:
    """Give a server other ports before another attempt, if those of the plan are taken.

    Raises `CtlError`.
    """
    server = panel.server(entry.id)
    if server is None:
        return
    ports = panel.ports(plan.destination.id)
    own = {each.id for each in server.ports}
    others = {port for each in plan.servers if each.state.is_open for port in each.ports}
    usable = {each.id: each for each in ports if each.is_free or each.id in own}
    if all(each in usable for each in entry.ports):
        return
    numbers = tuple(int(_port(each)) for each in entry.addresses)
    free = [each for each in usable.values() if each.id not in others - set(entry.ports)]
    found = assigned({entry.uuid: numbers}, free).get(entry.uuid)
    if found is None:
        raise CtlError(NO_PORTS, "add allocations there")
    entry.ports = tuple(each.id for each in found)
    entry.new_addresses = tuple(map(_address, found))
