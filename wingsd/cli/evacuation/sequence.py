"""The sequence of an evacuation: copies that follow, orders through the Panel, results.

All of it is in short turns, from what the node says at that moment and what the plan has. The plan
is written before each order, so that the command may end at any time: a later run finds out from
the node and the Panel what has become of an order.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from struct import Struct

import attrs

from wingsd.cli.client import ControlClient, CtlError, Exit, Json
from wingsd.cli.evacuation.panels import Panel, PanelError, PanelServer
from wingsd.cli.evacuation.plan import (
    BESIDES_RESTART,
    NOT_HERE,
    Entry,
    Plan,
    PlanError,
    State,
    measured_rate,
    renew_ports,
    save,
    take_elsewhere,
)
from wingsd.cli.output import duration, plain, size
from wingsd.util.durable import replace_file

#: Seconds between two turns, those while a transfer is ordered, and between two reports to the
#: daemon.
TURN, SHORT_TURN, REPORT = 1.0, 0.25, 5.0
#: Attempts for each server, and seconds from a failure until the next one.
ATTEMPTS, AGAIN_AFTER = 3, 15.0
#: Seconds after which an order has not reached the node, while that answers.
LOST_AFTER = 60.0
#: Seconds between two questions to the Panel about a server.
ASK_AGAIN = 5.0
#: Seconds after which a fault that comes and goes is named again.
SAY_AGAIN = 60.0
#: Seconds for which a copy may be in trouble, while no other server can be moved.
TROUBLE_FOR = 6 * 3600.0
#: The error of a daemon that has no such pair any more.
_NO_PAIR = "pair-not-found"
#: Servers that are off and in a transfer at a time.
OFF_AT_ONCE = 4


class Wish(Enum):
    """An operator's order to a running evacuation: a word in a file beside the plan."""

    GO_ON = "go on"
    PAUSE = "pause"
    CANCEL = "cancel"


def _wish_file(path: str) -> Path:
    return Path(f"{path}.wish")


def wish(path: str, wanted: Wish) -> None:
    """Say what the run of a plan is to do. Raises `CtlError`."""
    try:
        if wanted is Wish.GO_ON:
            _wish_file(path).unlink(missing_ok=True)
        else:
            replace_file(_wish_file(path), wanted.value.encode(), mode=0o644)
    except OSError as error:
        raise CtlError(
            f"{path}.wish cannot be written: {error.strerror}",
            "run this as the user who runs the evacuation",
        ) from error


def wished(path: str) -> Wish:
    """Return what the run of a plan is to do; to pause, if that cannot be read."""
    try:
        return Wish(_wish_file(path).read_text().strip())
    except FileNotFoundError:
        return Wish.GO_ON
    except (OSError, ValueError):
        return Wish.PAUSE


#: `struct flock`, see fcntl(2); and one that locks a whole file.
_LOCK = Struct("@hhqqi0q")
_WHOLE = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a plan, so that a single command goes on with it. Raises `CtlError`."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CtlError(
            f"{path}.lock cannot be opened: {error.strerror}", "name another file with --plan"
        ) from error
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE)
    except (BlockingIOError, PermissionError) as error:
        raise CtlError(
            f"another wingsctl goes on with {path}", "see it with wingsctl evacuate status"
        ) from error
    else:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: str) -> bool:
    """Return whether a command goes on with a plan; that is found out without a lock."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # of another user
        return True
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WHOLE)
    finally:
        os.close(descriptor)
    kind, *_ = _LOCK.unpack(found)
    return bool(kind != fcntl.F_UNLCK)


@attrs.define(eq=False)
class Evacuation:
    """Moves the servers of a plan. `say` gets lines about it.

    `now` is Unix time.
    """

    plan: Plan
    _path: str
    _client: ControlClient
    _panel: Panel
    _say: Callable[[str], object]
    _now: Callable[[], float] = time.time
    _wish: Wish = Wish.GO_ON
    #: When the daemon began to answer without a break.
    _answers_since: float | None = None
    _reported: float = 0.0
    #: By server: not before when it is ordered again, and when the Panel was asked about it.
    _again: dict[str, float] = attrs.field(factory=dict)
    _asked: dict[str, float] = attrs.field(factory=dict)
    #: By server, since when its copy is in trouble; and the servers that a person is to order.
    _trouble: dict[str, float] = attrs.field(factory=dict)
    _announced: set[str] = attrs.field(factory=set)
    #: By server, since when this node does not have it, and the Panel has it here, or nowhere.
    _absent: dict[str, float] = attrs.field(factory=dict)
    _last_fault: str = ""
    #: When each fault was last named.
    _named: dict[str, float] = attrs.field(factory=dict)

    def run(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Return when no server is left to be moved. Raises `CtlError`."""
        while not self.turn():
            sleep(SHORT_TURN if self.plan.of(State.ORDERED) else TURN)

    def turn(self) -> bool:
        """Do what is to be done now; return whether no server is left to be moved.

        Raises `CtlError` for what does not go away by itself.
        """
        try:
            found = self._client.ask("GET", f"evacuation?since={self.plan.created:.0f}")
            if self._answers_since is None:
                self._answers_since = self._now()
            self._go_on(found)
            self._last_fault = ""
        except PanelError as error:
            if error.refuses_key:
                raise
            self._tell_fault(error)
        except CtlError as error:
            if error.code == _NO_PAIR:
                raise CtlError(
                    f"the pair with {plain(self.plan.destination.name)} has ended",
                    "run wingsctl pair there, the command that it prints here, and this one again",
                ) from error
            if isinstance(error, PlanError) or error.exit_code == Exit.NOT_PERMITTED:
                raise
            # It is being restarted, and goes on with what was ordered.
            self._answers_since = None
            self._tell_fault(error)
        # After a fault, copies may be left to end, and the last report.
        return self.plan.is_over and not self._last_fault

    def _tell_fault(self, error: CtlError) -> None:
        now = self._now()
        is_due = now - self._named.get(error.message, 0.0) >= SAY_AGAIN
        if error.message != self._last_fault and is_due:
            self._named[error.message] = now
            self._say(f"{error.message}; trying again")
        self._last_fault = error.message

    def _go_on(self, found: Json) -> None:
        servers = {each["server"]: each for each in found["servers"]}
        elsewhere = take_elsewhere(found["servers"], self.plan.pair)
        ended: dict[str, list[Json]] = defaultdict(list)
        for each in found["ended"]:
            ended[each["server"]].append(each)
        self._follow_wish()
        self.plan.rate = max(self.plan.rate, measured_rate(found))
        try:
            self._act(servers, ended, elsewhere)
        except PanelError:
            self._report(servers)
            raise
        self._report(servers)

    def _act(
        self,
        servers: Mapping[str, Json],
        ended: Mapping[str, Sequence[Json]],
        elsewhere: Collection[str],
    ) -> None:
        for entry in self.plan.of(State.WAITING, State.ORDERED):
            self._settle(entry, servers.get(entry.uuid), ended[entry.uuid])
        if self._wish is Wish.CANCEL:
            cancel_waiting(self._client, self.plan, self._path)
        else:
            self._seed(servers, elsewhere)
            if self._wish is Wish.GO_ON:
                self._watch_trouble(servers)
                self._order(servers)
            else:
                self._trouble.clear()
        for entry in self.plan.of(State.FAILED, State.CANCELLED):
            if entry.uuid in servers and servers[entry.uuid]["seed"] is not None:
                end_copy(self._client, entry)

    def _follow_wish(self) -> None:
        before, self._wish = self._wish, wished(self._path)
        if before is not self._wish:
            self._say(
                {
                    Wish.GO_ON: "going on",
                    Wish.PAUSE: "paused: nothing more is ordered; copies follow their servers",
                    Wish.CANCEL: "cancelled: what was ordered goes on, the rest stays here",
                }[self._wish]
            )

    # Results

    def _settle(self, entry: Entry, here: Json | None, ended: Sequence[Json]) -> None:
        """Find out what has become of a server."""
        if here is not None and here["order"] is not None:
            if entry.state is State.WAITING:
                self._set(entry, State.ORDERED, "", after=here["order"]["transfer"] - 1)
                self._say(f"{_name(entry)}: its transfer was ordered in the Panel")
            return
        results = [each for each in ended if each["transfer"] > entry.after]
        if results and results[-1]["outcome"] == "success":
            self._confirm(entry, here, results[-1])
        elif results and entry.state is State.ORDERED:
            entry.after, reason = results[-1]["transfer"], plain(results[-1]["reason"])
            if results[-1]["outcome"] == "cancelled":
                self._set(entry, State.CANCELLED, "its transfer was cancelled")
                self._say(f"{_name(entry)}: {entry.reason}; it stays here")
            else:
                self._failed(entry, reason)
        elif results:
            entry.after = results[-1]["transfer"]
        elif entry.state is State.ORDERED and self._is_lost(entry):
            self._lost(entry, here)
        elif entry.state is State.WAITING and here is None:
            self._confirm(entry, here, None)
        else:
            self._absent.pop(entry.uuid, None)

    def _is_lost(self, entry: Entry) -> bool:
        assert self._answers_since is not None  # noqa: S101 - it has just answered
        return self._now() - max(entry.ordered, self._answers_since) > LOST_AFTER

    def _ask_panel(self, entry: Entry) -> tuple[bool, PanelServer | None]:
        """Return whether the Panel was asked about a server just now, and what it has."""
        now = self._now()
        if now - self._asked.get(entry.uuid, 0.0) < ASK_AGAIN:
            return False, None
        self._asked[entry.uuid] = now
        return True, self._panel.server(entry.id)

    def _confirm(self, entry: Entry, here: Json | None, result: Json | None) -> None:
        """Take a server for moved, or gone, when the Panel says so."""
        was_asked, server = self._ask_panel(entry)
        if not was_asked:
            return
        if server is None:
            # For a moment a proxy of the Panel may answer in its place, or always if it is here.
            if here is None and self._is_lasting(entry):
                self._set(entry, State.GONE, "it was deleted")
        elif server.node == self.plan.destination.id:
            self._moved(entry, server, result)
        elif server.node != self.plan.source.id:
            self._set(entry, State.GONE, "it was moved to another node")
        elif result is None:
            if self._is_lasting(entry):
                self._set(entry, State.FAILED, NOT_HERE)
                self._say(f"{_name(entry)}: {NOT_HERE}")
        elif here is not None and self._now() - result["ended"] > LOST_AFTER:
            # It has come back since then.
            entry.after = result["transfer"]
            self._set(entry, State.WAITING, "")

    def _is_lasting(self, entry: Entry) -> bool:
        """Return whether the Panel has differed about a server for long."""
        return self._now() - self._absent.setdefault(entry.uuid, self._now()) > LOST_AFTER

    def _moved(self, entry: Entry, server: PanelServer, result: Json | None) -> None:
        there = [f"{each.ip}:{each.port}" for each in server.ports]
        if there:
            entry.new_addresses = tuple(there)
        entry.ended = self._now()
        if result is not None:
            entry.ended, entry.downtime = result["ended"], result.get("downtime")
        self._set(entry, State.MOVED, "")
        down = "" if entry.downtime is None else f", down for {entry.downtime:.1f} s"
        new = f", now at {', '.join(entry.new_addresses)}" if entry.moves_port else ""
        self._say(f"{_name(entry)}: moved{down}{new}")

    def _lost(self, entry: Entry, here: Json | None) -> None:
        """Release a server in the Panel whose order did not reach this node."""
        was_asked, server = self._ask_panel(entry)
        if not was_asked:
            return
        if server is None and here is not None:
            self._failed(entry, "the Panel does not have it")
            return
        if server is None or server.node != self.plan.source.id:
            self._asked.pop(entry.uuid)
            self._confirm(entry, here, None)
            return
        if self._panel.takes_orders and server.is_moving is not False:
            self._panel.release(entry.id)
        self._failed(entry, "the Panel's order has not reached this node")

    def _failed(self, entry: Entry, reason: str) -> None:
        entry.tries += 1
        self._again[entry.uuid] = self._now() + AGAIN_AFTER
        over = entry.tries >= ATTEMPTS
        self._set(entry, State.FAILED if over else State.WAITING, reason)
        self._say(
            f"{_name(entry)}: {reason}; "
            + ("it stays here" if over else f"attempt {entry.tries + 1} of {ATTEMPTS} follows")
        )

    def _set(self, entry: Entry, state: State, reason: str, after: int | None = None) -> None:
        """Change a server's state, and write the plan."""
        entry.state, entry.reason = state, reason
        if after is not None:
            entry.after, entry.ordered = after, self._now()
        self._announced.discard(entry.uuid)
        save(self.plan, self._path)

    # Copies

    def _seed(self, servers: Mapping[str, Json], elsewhere: Collection[str]) -> None:
        """Ask the node to keep copies of all servers that wait, unless it does already.

        Copies `elsewhere`, at other nodes, end.
        """
        for entry in self.plan.of(State.WAITING):
            if entry.uuid in elsewhere:
                end_copy(self._client, entry)
        wanted = sorted(
            each.uuid
            for each in self.plan.of(State.WAITING)
            if each.uuid in servers and servers[each.uuid]["seed"] is None
        )
        if wanted:
            request = {"pair": self.plan.pair, "servers": wanted, "at_once": self.plan.seeds}
            self._client.ask("POST", "seeds", request)

    def _watch_trouble(self, servers: Mapping[str, Json]) -> None:
        """Give up servers whose copies do not get on, when there is nothing else to do."""
        waiting = self.plan.of(State.WAITING)
        for entry in waiting:
            seed = servers.get(entry.uuid, {}).get("seed")
            if seed is None or seed["state"] != "trouble":
                self._trouble.pop(entry.uuid, None)
                continue
            since = self._trouble.setdefault(entry.uuid, self._now())
            entry.reason = plain(seed["trouble"])
            if (
                self._now() - since > TROUBLE_FOR
                and all(each.uuid in self._trouble for each in waiting)
                and not self.plan.of(State.ORDERED)
            ):
                self._set(entry, State.FAILED, entry.reason)
                self._say(f"{_name(entry)}: its copy has failed: {entry.reason}")

    # Orders

    def _order(self, servers: Mapping[str, Json]) -> None:
        """Order the transfers for which there is room, servers with the least bytes first."""
        busy = {True: 0, False: 0}
        # Those that wait for a backup hold up no other, but they may all go on at one time.
        waiting = 0
        for entry in self.plan.of(State.ORDERED):
            order = servers.get(entry.uuid, {}).get("order")
            if order is None or order["phase"] != "waiting":
                busy[entry.is_running] += 1
            else:
                waiting += 1
        ready = [
            each
            for each in self.plan.of(State.WAITING)
            if self._is_ready(each, servers.get(each.uuid))
        ]
        ready.sort(key=lambda each: (each.tries, bool(servers[each.uuid]["busy"]), each.bytes))
        for entry in ready:
            entry.is_running = servers[entry.uuid]["state"] != "offline"
            will_wait = bool(servers[entry.uuid]["busy"])
            if will_wait and waiting >= self.plan.at_once:
                continue
            if not self._panel.takes_orders:
                self._announce(entry, busy[True])
            elif self._has_room(entry, busy, waiting):
                busy[entry.is_running] += 1
                waiting += will_wait
                self._order_one(entry)

    def _has_room(self, entry: Entry, busy: Mapping[bool, int], waiting: int) -> bool:
        """Return whether a server may be ordered beside those in a transfer.

        Backups may begin just after orders, which then wait, and go on at one time: so a running
        server counts these as well, twice as many as may move.
        """
        if not entry.is_running:
            return busy[False] < OFF_AT_ONCE
        most = self.plan.at_once
        return busy[True] < most and busy[True] + waiting < 2 * most

    def _is_ready(self, entry: Entry, here: Json | None) -> bool:
        if here is None or self._now() < self._again.get(entry.uuid, 0.0):
            return False
        seed = here["seed"]
        if seed is None or seed["state"] != "following" or seed["whole_at"] is None:
            return False
        if here["state"] == "offline":
            return True
        entry.expected = _predicted(here)
        return bool(entry.expected - here["restart_seconds"] <= self.plan.max_downtime)

    def _order_one(self, entry: Entry) -> None:
        if entry.tries:
            try:
                renew_ports(entry, self._panel, self.plan)
            except PanelError:
                raise
            except CtlError as error:
                self._failed(entry, error.message)
                return
        self._set(entry, State.ORDERED, "", after=entry.after)
        try:
            self._panel.order(entry.id, self.plan.destination.id, entry.ports)
        except PanelError as error:
            if error.refuses_key:
                self._set(entry, State.WAITING, error.message)
                raise
            if error.status == HTTPStatus.CONFLICT or not error.is_certain:
                # It may have been ordered: the node or the Panel says that later.
                self._say(f"{_name(entry)}: {error.message}")
                return
            self._failed(entry, error.message)
            return
        self._say(f"{_name(entry)}: ordered, {size(entry.bytes)}")

    def _announce(self, entry: Entry, busy: int) -> None:
        """Ask the operator to order a transfer in the Panel."""
        if entry.uuid in self._announced or len(self._announced) + busy >= self.plan.at_once:
            return
        self._announced.add(entry.uuid)
        self._say(
            f"{_name(entry)}: ready. Order its transfer to {self.plan.destination.name}, with "
            f"{', '.join(entry.new_addresses)}, at {self._panel.page(entry.id)}"
        )

    # The daemon's view

    def _report(self, servers: Mapping[str, Json]) -> None:
        """Report the progress to the daemon, for its status and metrics."""
        now = self._now()
        if now - self._reported < REPORT and not self.plan.is_over:
            return
        self._reported = now
        self._client.ask("PUT", "evacuation", progress(self.plan, self._path, servers, now))


def end_copy(client: ControlClient, entry: Entry) -> None:
    """End the copy that follows a server, if there is one. Raises `CtlError`."""
    try:
        client.ask("DELETE", f"seeds/{entry.uuid}")
    except CtlError as error:
        if error.exit_code != Exit.UNKNOWN:
            raise


def cancel_waiting(client: ControlClient, plan: Plan, path: str) -> None:
    """Cancel all servers of a plan that are not ordered yet, and end their copies.

    Raises `CtlError`.
    """
    waiting = plan.of(State.WAITING)
    for entry in waiting:
        end_copy(client, entry)
        entry.state = State.CANCELLED
    if waiting:
        save(plan, path)


def progress(plan: Plan, path: str, servers: Mapping[str, Json], now: float) -> Json:
    """Return how far a plan is, in the form of `PUT /v1/evacuation`."""
    moved, failed = plan.of(State.MOVED), plan.of(State.FAILED, State.LEFT_OUT)
    waiting = plan.of(State.WAITING, State.ORDERED)
    seeds = {each.uuid: servers.get(each.uuid, {}).get("seed") or {} for each in waiting}
    # A transfer is ordered when the copy is whole, and takes its place.
    sent = {
        each.uuid: each.bytes
        if each.state is State.ORDERED or seeds[each.uuid].get("whole_at")
        else seeds[each.uuid].get("bytes", 0)
        for each in waiting
    }
    left = sum(each.bytes - min(sent[each.uuid], each.bytes) for each in waiting)
    match wished(path):
        case Wish.CANCEL:
            state = "cancelled"
        case Wish.PAUSE if waiting:
            state = "paused"
        case _ if not waiting:
            state = "done" if plan.has_succeeded else "failed"
        case _:
            state = "moving" if moved or plan.of(State.ORDERED) else "seeding"
    seconds = plan.seconds_of_moves + left / plan.rate if plan.rate else None
    return {
        "to": plan.pair,
        "plan": path,
        "state": state,
        "total": len(plan.servers),
        "moved": len(moved),
        "failed": len(failed),
        "waiting": len(waiting),
        "bytes": sum(each.bytes for each in plan.servers),
        "bytes_done": sum(each.bytes for each in moved) + sum(sent.values()),
        "ends": None if seconds is None or not waiting else now + seconds,
    }


def _predicted(here: Json) -> float:
    """Return for how long a server would be down, its program's stop and start included.

    Before the second round of its copy that is not known; its transfer then predicts it.
    """
    predicted: float | None = here["seed"]["predicted_downtime"]
    return here["restart_seconds"] + BESIDES_RESTART if predicted is None else predicted


def _name(entry: Entry) -> str:
    return f"{plain(entry.name)} ({entry.uuid[:8]})"


def doing(entry: Entry, here: Json | None, max_downtime: float) -> str:
    """Return what is done for a server, for a table."""
    if not entry.state.is_open:
        down = "" if entry.downtime is None else f", down for {entry.downtime:.1f} s"
        return f"{entry.state.value}{down}" + (f": {plain(entry.reason)}" if entry.reason else "")
    order = (here or {}).get("order")
    if order is not None and order["phase"] == "waiting":
        return f"ordered, waits for: {plain(order['waits_for'])}"
    if order is not None or entry.state is State.ORDERED:
        return plain(order["doing"]) if order else "ordered"
    again = f"attempt {entry.tries + 1}, after: {plain(entry.reason)}; " if entry.tries else ""
    return again + _copied(here, max_downtime)


def _copied(here: Json | None, max_downtime: float) -> str:
    seed = (here or {}).get("seed")
    if here is None or seed is None or seed["state"] == "queued":
        return "its copy has not begun"
    if seed["state"] == "trouble":
        return f"its copy does not get on: {plain(seed['trouble'])}"
    if seed["whole_at"] is None:
        return f"copying, {size(seed['bytes'])} of {size(seed['total_bytes'])}"
    beside = 0.0 if here["state"] == "offline" else _predicted(here) - here["restart_seconds"]
    if beside > max_downtime:
        return f"copied; would be down for {duration(beside)} besides its restart"
    return "copied, next"
