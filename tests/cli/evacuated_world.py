"""Two nodes and a Panel in memory, with a clock: what `wingsctl evacuate` sees of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import attrs

from wingsd.cli.client import CtlError, Exit
from wingsd.cli.evacuation.panels import PanelError, PanelNode, PanelServer, Port
from wingsd.config import PELICAN

HERE, THERE = (
    PanelNode("1", str(UUID(int=1)), "old", "https://old:8080", None, None, None),
    PanelNode("2", str(UUID(int=2)), "new", "https://new:8080", None, None, None),
)
MIB = 1024 * 1024


@attrs.define
class Game:
    """A server; seconds from a seed's begin until it is whole, and of its transfer."""

    uuid: str
    id: str
    bytes: int
    state: str = "running"
    predicted: float = 3.0
    copies_in: float = 5.0
    moves_in: float = 4.0
    memory: int = 0
    node: str = HERE.id
    #: Ports by their ids: the first is the primary one.
    ports: list[str] = attrs.field(factory=list)
    busy: list[str] = attrs.field(factory=list)
    mounts: list[str] = attrs.field(factory=list)
    trouble: str = ""
    #: The source does not have it, though the Panel says so.
    is_missing: bool = False
    #: Of the source.
    seeded: float | None = None
    pair: str = ""
    order: dict[str, Any] | None = None
    #: Of the Panel.
    is_moving: bool = False
    #: How often the node moved it, and its transfers failed next.
    moves: int = 0
    failures: int = 0


@attrs.define(eq=False)
class World:
    """The daemon of the source, and the Panel; `now` is Unix time."""

    now: float = 1_000_000.0
    games: dict[str, Game] = attrs.field(factory=dict)
    #: All ports by id, and the server that has each.
    all_ports: dict[str, Port] = attrs.field(factory=dict)
    owners: dict[str, str] = attrs.field(factory=dict)
    ended: list[dict[str, Any]] = attrs.field(factory=list)
    facts: dict[str, Any] = attrs.field(factory=dict)
    reports: list[dict[str, Any]] = attrs.field(factory=list)
    ordered: list[str] = attrs.field(factory=list)
    released: list[str] = attrs.field(factory=list)
    #: The most transfers of running servers, and of those that are off, at a time.
    most: dict[bool, int] = attrs.field(factory=lambda: {True: 0, False: 0})
    #: Called before each request; it may raise.
    before: Callable[[str], None] = lambda _: None
    #: Raised by the next orders, before or after they were carried out.
    refusals: list[tuple[Exception, bool]] = attrs.field(factory=list)
    #: Orders that do not reach the node.
    lost: int = 0
    #: Why transfers fail.
    reason: str = "it broke"
    #: The outcome of a transfer that does not succeed.
    failure: str = "failure"
    takes_orders: bool = True
    limits: PanelNode = THERE
    _number: int = 0

    url: str = "https://panel.example.com"
    family: str = PELICAN

    def __attrs_post_init__(self) -> None:
        self.facts = {
            "uuid": THERE.uuid,
            "architecture": "amd64",
            "memory_bytes": 64 * 1024 * MIB,
            "cpus": 8,
            "free_bytes": 100 * 1024 * MIB,
            "pair": {
                **{"bytes": 100 * 1024 * MIB, "used_bytes": 0},
                **{"servers": 100, "used_servers": 0},
            },
            "maintenance": False,
            "starts_moved": True,
            "images": [],
            "ports_busy": [],
            "mounts_refused": [],
            "servers_here": [],
            "servers_moved": [],
        } | self.facts

    def add(self, size: int, ports: Sequence[int] = (25565,), **fields: Any) -> Game:
        """Put a server on the source; its size is in MiB, its ports are its own."""
        number = len(self.games) + 1
        game = Game(str(UUID(int=100 + number)), str(number), size * MIB, **fields)
        for port in ports:
            game.ports.append(self.add_port("10.0.0.1", port, game.uuid))
        self.games[game.uuid] = game
        return game

    def add_port(self, ip: str, port: int, owner: str = "") -> str:
        """Add an allocation; those of the source are 10.0.0.1, all others the destination's."""
        identity = str(len(self.all_ports) + 1)
        self.all_ports[identity] = Port(identity, ip, port)
        if owner:
            self.owners[identity] = owner
        return identity

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(max(1, round(seconds))):
            self.now += 1.0
            for game in self.games.values():
                self._go_on(game)

    def _go_on(self, game: Game) -> None:
        order = game.order
        if order is None or self.now < order["at"]:
            return
        game.order, has_failed = None, game.failures > 0
        result = {"outcome": self.failure if has_failed else "success", "reason": self.reason}
        self.ended.append(
            {"transfer": order["transfer"], "server": game.uuid, "bytes": None}
            | result
            | {"begun": order["begun"], "ended": self.now, "downtime": 1.5}
        )
        game.is_moving = False
        there = [each for each, owner in self.owners.items() if owner == game.uuid]
        if has_failed:
            game.failures -= 1
            for each in there:
                if each not in game.ports:
                    del self.owners[each]
            return
        game.node, game.moves, game.seeded = THERE.id, game.moves + 1, None
        for each in game.ports:
            del self.owners[each]
        game.ports = order["ports"]

    # The daemon

    def ask(self, method: str, path: str, content: object = None) -> Any:
        self.before(f"{method} {path}")
        match method, path.partition("?")[0].split("/"):
            case "GET", ["evacuation"]:
                return self._snapshot()
            case "GET", ["pairs"]:
                pair = {"name": "new:8080", "direction": "out", "peer": "new", "url": THERE.url}
                return {"pairs": [pair]}
            case "PUT", ["evacuation"]:
                assert isinstance(content, dict)
                self.reports.append(content)
            case "POST", ["pairs", _, "facts"]:
                return self.facts
            case "POST", ["seeds"]:
                assert isinstance(content, dict)
                for uuid in content["servers"]:
                    game = self.games[uuid]
                    if game.seeded is None:
                        game.seeded, game.pair = self.now, content["pair"]
            case "DELETE", ["seeds", uuid]:
                if self.games[uuid].seeded is None:
                    raise CtlError("there is none", status=Exit.UNKNOWN)
                self.games[uuid].seeded = None
            case _:
                raise AssertionError((method, path))
        return None

    def _snapshot(self) -> dict[str, Any]:
        here = [each for each in self.games.values() if each.node == HERE.id]
        here = [each for each in here if not each.is_missing]
        return {
            "now": self.now,
            "node": {"uuid": HERE.uuid, "family": PELICAN, "panel": self.url},
            "last_transfer": self._number,
            "servers": [self._shown(each) for each in here],
            "ended": list(self.ended),
        }

    def _shown(self, game: Game) -> dict[str, Any]:
        seed = None
        if game.seeded is not None and game.order is None:
            is_whole = self.now - game.seeded >= game.copies_in
            seed = {
                "pair": game.pair,
                "state": "trouble" if game.trouble else "following" if is_whole else "sending",
                "trouble": game.trouble,
                "bytes": game.bytes if is_whole else 0,
                "total_bytes": game.bytes,
                "bytes_per_second": 1.0 * MIB,
                "whole_at": game.seeded + game.copies_in if is_whole else None,
                "predicted_downtime": game.predicted if is_whole else None,
            }
        return {
            "server": game.uuid,
            "name": f"game {game.id}",
            "state": game.state,
            "hold": "",
            "busy": game.busy,
            "disk_bytes": game.bytes,
            "restart_seconds": 2.0,
            "image": "java",
            "mounts": game.mounts,
            "seed": seed,
            "order": game.order,
        }

    # The Panel

    def nodes(self) -> list[PanelNode]:
        return [HERE, self.limits]

    def servers(self, nodes: Sequence[str]) -> list[PanelServer]:
        return [self._described(each) for each in self.games.values() if each.node in nodes]

    def server(self, server: str) -> PanelServer | None:
        self.before(f"Panel {server}")
        found = [each for each in self.games.values() if each.id == server]
        return self._described(found[0]) if found else None

    def _described(self, game: Game) -> PanelServer:
        mine = [*game.ports]
        mine += [e for e, owner in self.owners.items() if owner == game.uuid and e not in mine]
        return PanelServer(
            game.id,
            game.uuid,
            f"game {game.id}",
            game.node,
            game.memory,
            0,
            0,
            "",
            tuple(self.all_ports[each] for each in mine),
            None,
        )

    def ports(self, node: str) -> list[Port]:
        return [
            attrs.evolve(each, is_free=each.id not in self.owners)
            for each in self.all_ports.values()
            if (each.ip == "10.0.0.1") == (node == HERE.id)
        ]

    def order(self, server: str, node: str, ports: Sequence[str]) -> None:
        self.before(f"order {server}")
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None and not refusal[1]:
            raise refusal[0]
        game = next(each for each in self.games.values() if each.id == server)
        assert node == THERE.id
        if game.is_moving or game.node != HERE.id:
            raise PanelError("in a transfer already", "", 409, is_certain=True)
        for each in ports:
            assert self.owners.get(each, game.uuid) == game.uuid
            self.owners[each] = game.uuid
        game.is_moving = True
        self.ordered.append(game.uuid)
        if self.lost:
            self.lost -= 1
        else:
            self._number += 1
            game.order = {
                **{"transfer": self._number, "phase": "moving", "doing": "moving it"},
                **{"at": self.now + game.moves_in, "begun": self.now, "ports": [*ports]},
            }
        for runs in (True, False):
            now = sum(
                each.order is not None and (each.state == "running") is runs
                for each in self.games.values()
            )
            self.most[runs] = max(self.most[runs], now)
        if refusal is not None:
            raise refusal[0]

    def release(self, server: str) -> None:
        self.before(f"release {server}")
        game = next(each for each in self.games.values() if each.id == server)
        assert game.order is None
        self.released.append(game.uuid)
        game.is_moving = False  # the ports at the destination stay the server's

    def page(self, server: str) -> str:
        return f"{self.url}/admin/servers/view/{server}/manage"


def random_world(rng: random.Random, count: int = 8) -> World:
    """Return a world with servers of all kinds, of which some transfers fail."""
    world = World()
    for number in range(count):
        world.add(
            rng.randint(1, 400),
            (25565 + number,),
            state=rng.choice(["running", "running", "offline"]),
            copies_in=rng.uniform(1, 30),
            moves_in=rng.uniform(1, 20),
            failures=rng.choice([0, 0, 0, 1, 2]),
        )
    for number in range(count + 2):
        world.add_port("10.0.0.2", 25567 + number)
    world.lost = rng.choice([0, 0, 1, 2])
    return world
