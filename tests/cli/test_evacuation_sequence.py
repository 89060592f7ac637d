"""The sequence of an evacuation, in memory: orders, results, and runs that end at any moment."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.cli.evacuated_world import HERE, MIB, THERE, World, random_world
from wingsd.cli.client import CtlError, Exit
from wingsd.cli.evacuation import sequence
from wingsd.cli.evacuation.panels import PanelError, PanelServer
from wingsd.cli.evacuation.plan import NOT_HERE, Plan, State, load, make, save
from wingsd.cli.evacuation.sequence import Evacuation, Wish, is_locked, locked, wish, wished

#: Turns after which an evacuation in memory must be over.
MOST_TURNS = 3000


class Runs:
    """Runs of `wingsctl evacuate` in a world, each with the plan that the one before has left."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = str(path / "plan.json")
        self.said: list[str] = []
        client: Any = world
        self.plan = make(client, client, "new")

    def write(self) -> None:
        save(self.plan, self.path)

    def evacuation(self) -> Evacuation:
        world: Any = self.world
        self.plan = load(self.path)
        return Evacuation(
            self.plan, self.path, world, world, self.said.append, lambda: self.world.now
        )

    def turns(self, count: int) -> None:
        evacuation = self.evacuation()
        for _ in range(count):
            if evacuation.turn():
                return
            self.world.sleep(1)

    def finish(self) -> Plan:
        turns = 0

        def sleep(seconds: float) -> None:
            nonlocal turns
            turns += 1
            assert turns < MOST_TURNS, self.said[-5:]
            self.world.sleep(seconds)

        self.evacuation().run(sleep)
        return self.plan


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """An evacuation of eight servers, of which two are off."""
    world = World()
    for number in range(8):
        world.add((number + 1) * 10, (25565 + number,))
        world.add_port("10.0.0.2", 25565 + number)
    for number in (3, 8):
        world.games[list(world.games)[number - 1]].state = "offline"
    made = Runs(world, tmp_path)
    made.write()
    return made


def game(runs: Runs, number: int) -> Any:
    return next(each for each in runs.world.games.values() if each.id == str(number))


def test_all_move_small_ones_first_and_some_at_a_time(runs: Runs) -> None:
    plan = runs.finish()
    assert {each.state for each in plan.servers} == {State.MOVED}
    assert plan.has_succeeded
    assert [each.moves for each in runs.world.games.values()] == [1] * 8
    running = [uuid for uuid in runs.world.ordered if runs.world.games[uuid].state == "running"]
    assert running == sorted(running)
    assert runs.world.most == {True: 2, False: 2}
    assert [each.downtime for each in plan.servers] == [1.5] * 8
    last = runs.world.reports[-1]
    assert (last["state"], last["moved"], last["total"]) == ("done", 8, 8)
    assert last["bytes_done"] == last["bytes"]
    # Also when a transfer takes the place of a copy.
    done = [each["bytes_done"] for each in runs.world.reports]
    assert done == sorted(done)


def test_servers_that_are_off_move_four_at_once(runs: Runs) -> None:
    for each in runs.world.games.values():
        each.state = "offline"
    runs.finish()
    assert runs.world.most == {True: 0, False: 4}


def test_no_server_is_ordered_that_would_be_down_for_too_long(runs: Runs) -> None:
    game(runs, 1).predicted = 9.0  # 2 s of it are the restart
    runs.turns(200)
    assert [each.id for each in runs.plan.of(State.WAITING)] == ["1"]
    game(runs, 1).predicted = 6.0
    assert runs.finish().has_succeeded


def test_a_transfer_that_fails_is_ordered_twice_again_at_the_end(runs: Runs) -> None:
    game(runs, 1).failures = 2
    game(runs, 2).failures = 3
    plan = runs.finish()
    assert [(each.id, each.reason) for each in plan.of(State.FAILED)] == [("2", "it broke")]
    assert not plan.has_succeeded
    assert runs.world.ordered.count(game(runs, 1).uuid) == 3
    assert runs.world.ordered.count(game(runs, 2).uuid) == 3
    assert runs.world.reports[-1]["state"] == "failed"
    assert game(runs, 2).seeded is None


@pytest.mark.parametrize("was_carried_out", [False, True])
@pytest.mark.parametrize("status", [0, 500])
def test_an_order_without_a_clear_answer_is_found_out(
    runs: Runs, status: int, was_carried_out: bool
) -> None:
    error = PanelError("no answer", "", status, is_certain=False)
    runs.world.refusals = [(error, was_carried_out)]
    assert runs.finish().has_succeeded
    assert [each.moves for each in runs.world.games.values()] == [1] * 8
    # A server is released only when the node knows nothing of the order.
    assert len(runs.world.released) == (0 if was_carried_out else 1)


def test_an_order_that_does_not_reach_the_node_is_released(runs: Runs) -> None:
    runs.world.lost = 2
    assert runs.finish().has_succeeded
    assert len(runs.world.released) == 2
    assert sum("has not reached this node" in each for each in runs.said) == 2


def test_a_refused_order_is_an_attempt(runs: Runs) -> None:
    no_room = PanelError("the Panel says that the node has no room", "", 406, is_certain=True)
    runs.world.refusals = [(no_room, False)]
    assert runs.finish().has_succeeded
    assert runs.world.released == []


def test_a_refused_key_ends_the_command_before_anything_is_lost(runs: Runs) -> None:
    error = PanelError("the Panel does not accept the API key", "", 401, is_certain=True)
    runs.world.refusals = [(error, False)]
    with pytest.raises(PanelError, match="does not accept"):
        runs.finish()
    assert load(runs.path).of(State.ORDERED) == []
    assert runs.finish().has_succeeded


def test_restarts_of_the_daemon_are_waited_for(runs: Runs) -> None:
    def fail(_: str) -> None:
        if 1_000_010 <= runs.world.now < 1_000_200:
            raise CtlError("wingsd is not running", status=Exit.NO_DAEMON)

    runs.world.before = fail
    assert runs.finish().has_succeeded
    assert runs.said.count("wingsd is not running; trying again") == 1
    assert runs.world.released == []


def test_other_users_of_the_panel_are_taken_into_account(runs: Runs) -> None:
    runs.turns(3)
    # One is deleted, one moved elsewhere, and one ordered by a person.
    del runs.world.games[game(runs, 8).uuid]
    game(runs, 7).node = "3"
    by_hand: Any = runs.world
    by_hand.order("6", THERE.id, runs.plan.servers[5].ports)
    plan = runs.finish()
    assert [each.state for each in plan.servers] == [State.MOVED] * 6 + [State.GONE] * 2
    assert game(runs, 6).moves == 1
    assert plan.has_succeeded


def test_a_copy_that_does_not_get_on_is_given_up_at_the_end(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "TROUBLE_FOR", 100.0)
    game(runs, 2).trouble = game(runs, 3).trouble = "the destination's disk is full"
    runs.turns(60)
    wish(runs.path, Wish.PAUSE)
    runs.turns(200)
    assert runs.plan.of(State.FAILED) == []
    wish(runs.path, Wish.GO_ON)
    evacuation = runs.evacuation()
    for turn in range(300):
        if turn == 50:
            del runs.world.games[game(runs, 3).uuid]
        if evacuation.turn():
            break
        runs.world.sleep(1)
    (failed,) = runs.plan.of(State.FAILED)
    assert (failed.id, failed.reason) == ("2", "the destination's disk is full")
    assert game(runs, 2).seeded is None


def test_pause_and_resume(runs: Runs) -> None:
    runs.turns(8)
    before = len(runs.world.ordered)
    assert before
    wish(runs.path, Wish.PAUSE)
    runs.turns(60)
    assert len(runs.world.ordered) == before
    assert runs.world.reports[-1]["state"] == "paused"
    assert not runs.plan.of(State.ORDERED)
    wish(runs.path, Wish.GO_ON)
    assert runs.finish().has_succeeded


def test_cancel_leaves_the_rest_where_it_is(runs: Runs) -> None:
    runs.turns(8)
    before = len(runs.world.ordered)
    wish(runs.path, Wish.CANCEL)
    plan = runs.finish()
    assert len(plan.of(State.MOVED)) == before == len(runs.world.ordered)
    assert len(plan.of(State.CANCELLED)) == 8 - before
    assert not any(each.seeded for each in runs.world.games.values())
    assert runs.world.reports[-1]["state"] == "cancelled"


def test_cancel_ends_the_copies_that_a_fault_has_left(runs: Runs) -> None:
    def fail(request: str) -> None:
        if request.startswith("DELETE") and runs.world.now < 1_000_030:
            raise CtlError("wingsd is not running", status=Exit.NO_DAEMON)

    runs.turns(4)
    runs.world.before = fail
    wish(runs.path, Wish.CANCEL)
    runs.finish()
    assert not any(each.seeded for each in runs.world.games.values())
    assert runs.world.reports[-1]["state"] == "cancelled"


def test_a_transfer_that_a_person_cancels_is_not_ordered_again(runs: Runs) -> None:
    game(runs, 1).failures = 1
    runs.world.failure = "cancelled"
    plan = runs.finish()
    assert [each.id for each in plan.of(State.CANCELLED)] == ["1"]
    assert runs.world.ordered.count(game(runs, 1).uuid) == 1
    assert game(runs, 1).seeded is None


def test_few_servers_wait_for_their_backups_at_a_time(runs: Runs) -> None:
    for each in runs.world.games.values():
        each.busy = ["backup"]

    def phase(_: str) -> None:
        for each in runs.world.games.values():
            if each.order is not None and each.busy:
                each.order["phase"], each.order["at"] = "waiting", runs.world.now + 4

    runs.world.before = phase
    runs.turns(60)
    assert len(runs.plan.of(State.ORDERED)) == 2
    for each in runs.world.games.values():
        each.busy = []
    assert runs.finish().has_succeeded


def test_backups_that_begin_just_after_orders_let_few_servers_wait(runs: Runs) -> None:
    def phase(_: str) -> None:
        for each in runs.world.games.values():
            if each.order is not None:
                each.order["phase"], each.order["at"] = "waiting", runs.world.now + 4

    runs.world.before = phase
    runs.turns(60)
    assert len(runs.plan.of(State.ORDERED)) == 4
    runs.world.before = lambda _: None
    assert runs.finish().has_succeeded


def test_copies_at_another_node_are_not_those_of_this_plan(runs: Runs) -> None:
    for each in runs.world.games.values():
        each.seeded, each.pair = runs.world.now - 100, "third"
    runs.turns(3)
    assert runs.world.ordered == []
    assert {each.pair for each in runs.world.games.values()} == {"new"}
    assert runs.finish().has_succeeded


def test_a_server_that_came_back_while_no_command_ran_moves_again(runs: Runs) -> None:
    runs.turns(7)
    assert game(runs, 1).order is not None
    runs.world.sleep(100)
    assert game(runs, 1).node == THERE.id
    game(runs, 1).node = HERE.id
    assert runs.finish().has_succeeded
    assert game(runs, 1).moves == 2


def test_a_server_that_only_the_panel_has_here_is_named(runs: Runs) -> None:
    runs.turns(3)
    game(runs, 1).is_missing = True
    plan = runs.finish()
    assert [each.reason for each in plan.of(State.FAILED)] == [NOT_HERE]


def test_a_server_is_not_deleted_while_this_node_has_it(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, blind = World.server, 1_000_080

    def server(world: World, identity: str) -> PanelServer | None:
        return None if identity == "1" and world.now < blind else ask(world, identity)

    runs.world.lost = 1
    monkeypatch.setattr(World, "server", server)
    runs.finish()
    assert {each.state for each in runs.plan.servers} == {State.MOVED}
    assert len(runs.world.released) == 1


def test_a_panel_that_knows_no_server_for_a_moment_has_not_lost_one_that_moved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = World.server

    def server(world: World, identity: str) -> PanelServer | None:
        moved_at = [each["ended"] for each in world.ended if each["server"] == game(runs, 1).uuid]
        blind = identity == "1" and bool(moved_at) and world.now < moved_at[0] + 30
        return None if blind else ask(world, identity)

    monkeypatch.setattr(World, "server", server)
    assert {each.state for each in runs.finish().servers} == {State.MOVED}


def test_an_unreadable_wish_is_a_pause(runs: Runs) -> None:
    assert wished(runs.path) is Wish.GO_ON
    Path(f"{runs.path}.wish").write_text("")
    assert wished(runs.path) is Wish.PAUSE


@pytest.mark.parametrize("ask_again", [0.0, 5.0])
def test_a_panel_that_is_down_is_named_once_a_minute(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, ask_again: float
) -> None:
    def fail(request: str) -> None:
        if request.startswith("Panel"):
            raise PanelError("the Panel does not answer", "", is_certain=False)

    monkeypatch.setattr(sequence, "ASK_AGAIN", ask_again)
    runs.world.lost = 1
    runs.world.before = fail
    runs.turns(300)
    assert 1 <= runs.said.count("the Panel does not answer; trying again") <= 6
    # The command is at work.
    assert len(runs.world.reports) > 50


def test_a_person_orders_where_the_panel_takes_no_orders(runs: Runs) -> None:
    runs.world.takes_orders = False
    by_hand: Any = runs.world
    for _ in range(40):
        runs.turns(10)
        shown = [each for each in runs.said if "ready. Order its transfer to new" in each]
        for line in shown:
            server = line.rpartition("/view/")[2].removesuffix("/manage")
            entry = next(each for each in runs.plan.servers if each.id == server)
            found = game(runs, int(server))
            if found.node != THERE.id and not found.is_moving:
                assert entry.new_addresses[0] in line
                by_hand.order(server, THERE.id, entry.ports)
        if runs.plan.is_over:
            break
    assert runs.plan.has_succeeded
    assert runs.world.most[True] <= 2


def test_a_plan_is_gone_on_with_by_one_command_alone(runs: Runs) -> None:
    assert not is_locked(runs.path)
    with locked(runs.path):
        assert is_locked(runs.path)
        with pytest.raises(CtlError, match="another wingsctl"), locked(runs.path):
            pass


class Killed(BaseException):
    """The command is killed."""


@pytest.mark.parametrize("seed", range(12))
def test_a_command_that_is_killed_at_any_moment_loses_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = random_world(rng)
    runs = Runs(world, tmp_path)
    runs.write()
    left = rng.randint(1, 30)

    def kill(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            left = rng.choice([rng.randint(1, 40), rng.randint(200, 800)])
            raise Killed

    world.before = kill
    for _ in range(300):
        try:
            runs.finish()
        except Killed:
            world.sleep(rng.randint(0, 100))
            continue
        break
    plan = load(runs.path)
    assert plan.is_over
    for entry in plan.servers:
        found = world.games[entry.uuid]
        assert not found.is_moving
        assert found.moves == (1 if entry.state is State.MOVED else 0)
        assert entry.state in (State.MOVED, State.FAILED)
    assert sum(each.bytes for each in plan.servers) >= MIB
