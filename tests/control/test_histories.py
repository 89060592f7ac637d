"""Histories over the control socket: listed, and points made, removed and verified."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.control.operators import Operator
from tests.support.reactor import until
from tests.support.sample_server import UUID
from wingsd.config import HistoryConfig
from wingsd.history.store import HistoryStore
from wingsd.servers.operations import Operation
from wingsd.util.serialization import Span

GONE = "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def made(operator: Operator, tmp_path: Path) -> Operator:
    """An operator of a node that makes histories, when it is asked to."""
    place = tmp_path / "history"
    place.mkdir()
    source = operator.nodes.source
    source.servers.loaded = True
    history = HistoryConfig(every=Span("1h"), keep={"1h": 3_600_000_000}, directory=str(place))
    config = source.live.current
    system = attrs.evolve(config.system, history=history)
    source.histories.config = attrs.evolve(config, system=system)
    return operator


async def ended(operator: Operator, method: str, path: str) -> Any:
    """Order something; return how it has ended."""
    task = await operator.ask(method, path)
    while not task["over"]:
        task = await operator.ask("GET", f"history/{UUID}/task")
    return task


async def test_a_point_is_made_listed_and_removed(made: Operator) -> None:
    assert (await made.ask("GET", f"history/{UUID}"))["points"] == []
    task = await ended(made, "POST", f"history/{UUID}")
    assert (task["kind"], task["point"], task["error"]) == ("make", 1, "")
    assert (await ended(made, "POST", f"history/{UUID}"))["point"] is None
    world = made.nodes.source.data / UUID / "world"
    (world / "level.dat").write_bytes(b"changed")
    assert (await ended(made, "POST", f"history/{UUID}"))["point"] == 2
    found = await made.ask("GET", f"history/{UUID}")
    assert (found["name"], found["every_seconds"], found["trouble"]) == ("Lobby", 3600, "")
    newest, oldest = found["points"]
    assert (newest["number"], newest["label"], newest["files"]) == (2, "stopped", 1)
    assert (newest["bytes"], newest["stored_bytes"]) == (7, None)
    assert oldest["stored_bytes"] > 0
    listed = await made.ask("GET", "history")
    assert [each["points"] for each in listed["histories"]] == [2]
    task = await ended(made, "DELETE", f"history/{UUID}/points/2")
    assert (task["code"], "stays" in task["detail"]) == ("no-such-point", True)
    assert (await ended(made, "DELETE", f"history/{UUID}/points/1"))["error"] == ""
    found = await made.ask("GET", f"history/{UUID}")
    assert [each["number"] for each in found["points"]] == [2]
    lines: list[tuple[str, ...]] = []
    made.nodes.source.bus.subscribe(UUID, lambda event: lines.append(event.args))
    assert (await ended(made, "DELETE", f"history/{UUID}"))["error"] == ""
    assert os.listdir(listed["directory"]) == []
    assert ("history.removed", *lines[0]) == lines[1]


async def test_a_damaged_history_is_told(made: Operator) -> None:
    await ended(made, "POST", f"history/{UUID}")
    path = Path(made.nodes.source.histories.get().path(UUID)) / "tree" / "world" / "level.dat"
    path.write_bytes(b"x" * path.stat().st_size)
    task = await ended(made, "POST", f"history/{UUID}/verify")
    assert task["damaged"] == {"1": ["world/level.dat"]}
    found = await made.ask("GET", f"history/{UUID}")
    assert found["damaged"] == 1
    assert [each["damaged_files"] for each in found["points"]] == [["world/level.dat"]]
    status = await made.ask("GET", "status")
    assert status["histories"]["damaged"] == 1


async def test_a_history_that_is_in_use_is_shown_without_its_points(
    made: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wingsd.control.TURN_TIMEOUT", 0.05)
    begun, goes_on = Event(), Event()

    def work(store: HistoryStore) -> None:
        begun.set()
        goes_on.wait(60)

    used = Deferred.fromCoroutine(made.nodes.source.histories.get().use(UUID, work))
    await until(begun.is_set)
    found = await made.ask("GET", f"history/{UUID}")
    assert found["points"] is None
    assert found["busy_seconds"] > 0
    goes_on.set()
    await used
    monkeypatch.undo()
    found = await made.ask("GET", f"history/{UUID}")
    assert (found["points"], found["busy_seconds"]) == ([], None)


async def test_what_cannot_be_done_is_refused_with_the_reason(made: Operator) -> None:
    refused = await made.refusal("POST", f"history/{GONE}")
    assert refused.code == "server-not-found"
    assert (await made.refusal("DELETE", f"history/{UUID}/points/x")).code == "no-such-point"
    assert (await ended(made, "POST", f"history/{UUID}/verify"))["code"] == "no-such-point"
    server = made.nodes.source.servers.get(UUID)
    server.place_hold(Operation.RESTORE, "a backup of the server is being restored")
    refused = await made.refusal("POST", f"history/{UUID}")
    assert refused.message == "server is currently being restored"
    orders = [("POST", "/verify"), ("DELETE", ""), ("DELETE", "/points/1")]
    for method, path in orders:
        refused = await made.refusal(method, f"history/{UUID}{path}")
        assert refused.message == "server is currently being restored"
    server.release()


async def test_a_history_without_its_server_is_listed_and_removed_after_days(
    made: Operator,
) -> None:
    source = made.nodes.source
    directory = Path(source.histories.config.system.history.directory)
    (directory / GONE).mkdir()
    (directory / "lost+found").mkdir()
    (directory / f".removing-{GONE}").mkdir()
    listed = await made.ask("GET", "history")
    shown = {each["server"]: each["name"] for each in listed["histories"]}
    assert shown == {UUID: "Lobby", GONE: None}
    day = 24 * 3600.0
    now = 1_700_000_000.0
    for days in range(3):
        source.database.now = partial(float, now + days * day)
        await source.histories.clear()
        assert (directory / GONE).exists() is (days < 2)
    source.histories.start()
    await until(lambda: UUID in os.listdir(directory))
    assert sorted(os.listdir(directory)) == [UUID, "lost+found"]
    await source.histories.stop()
