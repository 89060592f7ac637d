"""The plan of an evacuation: what fits, with which ports, and the file."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cli.evacuated_world import HERE, MIB, THERE, World
from wingsd.cli.client import CtlError
from wingsd.cli.evacuation.panels import Port
from wingsd.cli.evacuation.plan import Plan, State, assigned, load, make, renew_ports, save


def made(world: Any, **only: None) -> Plan:
    return make(world, world, "new", only or None)


def reasons(plan: Plan) -> dict[str, str]:
    return {each.name: each.reason for each in plan.of(State.LEFT_OUT)}


def with_ports(world: World, *ports: int) -> World:
    for port in ports or range(25565, 25600):
        world.add_port("10.0.0.2", port)
    return world


def test_all_fit_small_ones_first_with_their_own_ports() -> None:
    world = with_ports(World())
    for size, port in ((300, 25570), (20, 25566), (100, 25590)):
        world.add(size, (port,))
    plan = made(world)
    assert [each.bytes // MIB for each in plan.servers] == [20, 100, 300]
    assert reasons(plan) == {}
    assert not any(each.moves_port for each in plan.servers)
    assert (plan.source.name, plan.destination.name) == (HERE.name, THERE.name)
    # a restart of 2 s, and a second
    assert {each.expected for each in plan.servers} == {3.0}
    assert plan.seconds_of_copies is None
    assert plan.seconds_of_moves == pytest.approx(3 * (3 + 4) / 2)


def test_fit_is_decided_for_all_together_the_largest_first() -> None:
    world = with_ports(World(facts={"free_bytes": 500 * MIB}))
    for number, size in enumerate((300, 250, 150, 40)):
        world.add(size, (25565 + number,))
    plan = made(world)
    assert reasons(plan) == {"game 2": "disk: it needs 250.0 MiB, 200.0 MiB are left"}


@pytest.mark.parametrize(
    ("limits", "facts", "told"),
    [
        ({"memory": 3000}, {}, "the Panel's memory: it needs 2.0 GiB, 952.0 MiB are left"),
        ({}, {"pair": {"bytes": 10**12, "used_bytes": 0, "servers": 5, "used_servers": 4}},
         "servers of the pair: it needs 1, 0 are left"),
        ({}, {"pair": {"bytes": 350 * MIB, "used_bytes": 0, "servers": 9, "used_servers": 0}},
         "bytes of the pair: it needs 100.0 MiB, 50.0 MiB are left"),
    ],
)  # fmt: skip
def test_limits_of_the_panel_and_of_the_pair_count(
    limits: dict[str, Any], facts: dict[str, Any], told: str
) -> None:
    world = with_ports(World(facts=facts, limits=attrs.evolve(THERE, **limits)))
    world.add(300, (25565,), memory=2048)
    world.add(100, (25566,), memory=2048)
    assert reasons(made(world)) == {"game 2": told}


def test_what_the_destination_cannot_run_is_named() -> None:
    world = with_ports(
        World(
            facts={
                "architecture": "riscv64",
                "images": ["java"],
                "mounts_refused": ["/srv/maps"],
                "memory_bytes": 1024 * MIB,
            }
        )
    )
    world.add(1, (25565,), mounts=["/srv/maps"])
    world.add(1, (25566,), memory=2048)
    world.facts["servers_here"] = [world.add(1, (25567,)).uuid]
    world.add(1, (25568,))
    assert reasons(made(world)) == {
        "game 1": "its mount /srv/maps is not allowed, or missing, at the destination",
        "game 2": "it needs 2.0 GiB of memory, more than the machine has",
        "game 3": "the destination has a server of this UUID already",
    }
    world.facts["images"] = []
    assert reasons(made(world))["game 4"] == (
        "its image may not exist for riscv64: pull java there first"
    )


def test_a_destination_in_maintenance_ends_the_command() -> None:
    with pytest.raises(CtlError, match="new is in maintenance"):
        made(World(facts={"maintenance": True}))


def test_a_server_without_a_free_port_is_left_out() -> None:
    world = with_ports(World(), 25565, 25570)
    for size in (10, 20, 30):
        world.add(size, (25560,))
    world.facts["ports_busy"] = ["10.0.0.2:25570"]
    plan = made(world)
    assert len(plan.of(State.WAITING)) == 1
    assert set(reasons(plan).values()) == {"the destination has not enough free ports"}


def test_ports_stay_or_are_the_next_free_ones() -> None:
    free = [Port(f"a{each}", "10.0.0.2", each) for each in (100, 101, 105, 107)]
    free += [Port(f"b{each}", "10.0.0.3", each) for each in (105, 106)]
    wanted = {"first": [105, 106], "second": [105], "third": [200], "fourth": [100, 1]}
    given = {uuid: [each.id for each in ports] for uuid, ports in assigned(wanted, free).items()}
    assert given == {
        "first": ["b105", "b106"],  # the address that has both
        "second": ["a105"],
        "third": ["a101"],  # none is above
        "fourth": ["a100", "a107"],
    }


def test_a_later_attempt_gets_other_ports_where_the_first_are_taken() -> None:
    world = with_ports(World(), 25565, 25566)
    entry_of = world.add(10, (25565,))
    plan = made(world)
    (entry,) = plan.servers
    client: Any = world
    # An order that was lost has left them to the server: they are its own.
    (first,) = entry.ports
    world.owners[first] = entry_of.uuid
    renew_ports(entry, client, plan)
    assert entry.ports == (first,)
    world.owners[first] = "another"
    renew_ports(entry, client, plan)
    assert entry.new_addresses == ("10.0.0.2:25566",)
    assert entry.moves_port
    world.owners[entry.ports[0]] = "another"
    with pytest.raises(CtlError, match="not enough free ports"):
        renew_ports(entry, client, plan)


def test_a_plan_is_written_for_its_owner_and_read_as_it_was(tmp_path: Path) -> None:
    world = with_ports(World())
    world.add(10, (25565,))
    plan = made(world)
    plan.servers[0].downtime = 1.5
    plan.servers[0].state = State.MOVED
    path = tmp_path / "new" / "plan.json"
    save(plan, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(str(path)) == plan


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _: "[]", "is not a plan of the version 1"),
        (lambda _: "{", "is not JSON"),
        (lambda plan: plan | {"at_once": 0}, "at least 1"),
        (lambda plan: plan | {"servers": plan["servers"] * 2}, "there twice"),
        (lambda plan: plan | {"rate": "fast"}, "rate: expected a number, found a text"),
        (lambda plan: plan | {"servers": [{}]}, "servers.0..*is missing"),
    ],
)
def test_a_broken_plan_is_named(tmp_path: Path, change: Any, told: str) -> None:
    world = with_ports(World())
    world.add(10, (25565,))
    path = tmp_path / "plan.json"
    save(made(world), str(path))
    changed = change(json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(CtlError) as raised:
        load(str(path))
    assert str(path) in raised.value.message
    assert re.search(told, raised.value.message)
