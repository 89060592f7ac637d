"""Tests for the fake environment that other tests stand on."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.docker.watcher import Notes
from tests.support import FakeEnvironment
from tests.support.faults import Hang
from wingsd.docker.runtime import Environment, Running, Usage
from wingsd.errors import EnvironmentFailed
from wingsd.panel.schemas import Settings

SERVER = Settings("6f1ad85f-8ee2-46ae-9b45-7ee3f65bd0a4")
UUID = SERVER.uuid


async def started(fake: FakeEnvironment, notes: Notes) -> Running:
    environment: Environment = fake
    assert await environment.create(SERVER)
    return await environment.start(UUID, notes)


async def test_a_process_says_and_uses_what_the_test_wants() -> None:
    fake, notes = FakeEnvironment(), Notes()
    await started(fake, notes)
    process = fake.running[UUID]
    process.say(b"one\r\ntwo\xff\r\n")
    process.use(Usage(memory_bytes=7))
    process.end(3, out_of_memory=True)
    process.say(b"late")
    assert notes.told == [b"one\r\ntwo\xff\r\n", Usage(memory_bytes=7), (3, True)]
    assert await fake.logs(UUID, 2) == ["two\ufffd", "late"]
    assert await fake.logs(UUID, 0) == []
    assert fake.running == {}


@pytest.mark.parametrize(
    ("call", "status"),
    [(("stop",), 0), (("signal", "SIGINT"), 0), (("command", "stop"), 0), (("kill",), 137)],
)
async def test_a_process_ends_as_it_is_asked_to(call: tuple[str, ...], status: int) -> None:
    fake, notes = FakeEnvironment(), Notes()
    running = await started(fake, notes)
    await getattr(running, call[0])(*call[1:])
    assert notes.told == [(status, False)]
    assert fake.calls == [("create", UUID), ("start", UUID), (call[0], UUID, *call[1:])]


async def test_a_stubborn_process_is_only_killed() -> None:
    fake, notes = FakeEnvironment(), Notes()
    fake.stubborn.add(UUID)
    running = await started(fake, notes)
    await running.stop()
    await running.signal("SIGTERM")
    await running.command("stop")
    assert notes.told == []
    await running.kill()
    assert notes.told == [(137, False)]


async def test_what_ran_before_is_adopted_and_let_go() -> None:
    fake, notes = FakeEnvironment(), Notes()
    assert await fake.adopt(UUID, notes) is None
    fake.run(SERVER).say(b"unseen")
    running = await fake.adopt(UUID, notes)
    assert running is not None
    fake.running[UUID].say(b"seen")
    running.detach()
    fake.running[UUID].say(b"unseen again")
    assert notes.told == [b"seen"]


async def test_what_is_not_so_is_refused() -> None:
    fake, notes = FakeEnvironment(), Notes()
    with pytest.raises(EnvironmentFailed, match="no container"):
        await fake.start(UUID, notes)
    running = await started(fake, notes)
    for refused in (fake.recreate(SERVER), fake.start(UUID, notes)):
        with pytest.raises(EnvironmentFailed, match="is running"):
            await refused
    await running.kill()
    with pytest.raises(EnvironmentFailed, match="not running"):
        await running.command("list")
    assert await fake.name_conflict(UUID) == ""
    fake.foreign.add(UUID)
    assert "another node's" in await fake.name_conflict(UUID)
    for foreign in (fake.create(SERVER), fake.recreate(SERVER), fake.start(UUID, notes)):
        with pytest.raises(EnvironmentFailed, match="another node's"):
            await foreign


async def test_faults_stand_until_they_are_taken_out() -> None:
    fake = FakeEnvironment()
    fake.faults["create"] = EnvironmentFailed("no")
    for _ in range(2):
        with pytest.raises(EnvironmentFailed, match="no"):
            await fake.create(SERVER)
    fake.faults["create"] = hang = Hang()
    creating = Deferred.fromCoroutine(fake.create(SERVER))
    assert fake.containers == {}
    hang.release()
    assert await creating
    assert fake.calls == [("create", UUID)] * 3
