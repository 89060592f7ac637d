"""Servers that come and go in several requests at the same time, by real daemons over TLS."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.archives import seen, stamp
from tests.daemon.daemon import Daemon, reactor
from tests.daemon.families import Calagopus, calagopus
from tests.daemon.house import UUID, House
from tests.daemon.pair import FAST, SLOW, Pair
from tests.daemon.uploads import Sender, Unanswered

LOG = b"installed\n" * 500
BACKUP = {"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11": b"b" * 70_000}
OURS = "user-agent: wingsd/1"


def archive(number: int, size: int = 200_000) -> bytes:
    """Return a part of a server; each has a directory of its own, and a file in a common one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (f"world/{number}.mca", f"part{number}/data"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = size, 1_700_000_000, 0o640
            tar.addfile(member, io.BytesIO(hashlib.shake_128(name.encode()).digest(size)))
    return buffer.getvalue()


def form(number: int | None, others: int, agent: str = "") -> Calagopus:
    """Return the form of one of the requests, with None for the first."""
    stream = f"multiplex-stream-count: {others}" if number is None else ""
    stream = stream or f"multiplex-stream: {number}"
    lines = f"{stream}\r\n{agent}" if agent else stream
    return calagopus(*((LOG, BACKUP) if number is None else ()), suffix="tar", stream=lines)


def requests(
    house: House, others: int, agent: str = "", wrong: int | None = None, size: int = 200_000
) -> list[Sender]:
    """Return the requests of one server, the first of them first; one has a wrong checksum."""
    token = house.token()
    return [
        Sender(
            house,
            archive(-1 if number is None else number, size),
            checksum="0" * 64 if wrong is not None and wrong == number else None,
            token=token,
            family=form(number, others, agent),
        )
        for number in (None, *range(others))
    ]


async def kill(daemon: Daemon) -> None:
    daemon.signal("KILL")
    await daemon.ended()


async def pause() -> None:
    """Let others go on, before it is looked again."""
    await deferLater(reactor, 0.02)


async def outcome(sender: Sender) -> tuple[int, bytes] | None:
    """Send the rest; return the answer, None without one."""
    try:
        return await sender.finish()
    except Unanswered:
        return None


async def finish(senders: list[Sender]) -> list[tuple[int, bytes] | None]:
    """Send the rest of all of them at the same time."""
    waiting = [Deferred.fromCoroutine(outcome(sender)) for sender in senders]
    return [await each for each in waiting]


@pytest.mark.parametrize("backwards", [False, True])
@pytest_twisted.ensureDeferred
async def test_they_become_one_server(house: House, backwards: bool) -> None:
    await house.start()
    senders = requests(house, 3)
    for sender in senders[::-1] if backwards else senders:
        await sender.begin()
    assert await finish(senders) == [(200, b"")] * 4
    assert house.panel.reports() == [(UUID, "success")]
    (call,) = [call for call in house.panel.calls if call.path.endswith("/success")]
    assert call.body == {"backups": [*BACKUP]}
    world = house.volumes / UUID / "world"
    assert sorted(path.name for path in world.iterdir()) == ["-1.mca", "0.mca", "1.mca", "2.mca"]
    assert (house.directory / "logs" / "install" / f"{UUID}.log").read_bytes() == LOG
    late = Sender(house, archive(0), token=senders[0]._token, family=form(0, 3, OURS))
    await late.begin()
    status, body = await late.finish()
    assert status == 401
    assert b"it was used for a transfer before" in body
    assert house.panel.reports() == [(UUID, "success")]


@pytest.mark.parametrize("agent", ["", OURS])
@pytest_twisted.ensureDeferred
async def test_a_wrong_checksum_fails_all_of_them(house: House, agent: str) -> None:
    await house.start()
    senders = requests(house, 2, agent, wrong=1)
    for sender in senders:
        await sender.begin()
    answers = await finish(senders)
    if agent:
        assert [answer and answer[0] for answer in answers] == [400] * 3
        assert all(answer and b"stream 1: the sender's SHA-256" in answer[1] for answer in answers)
    else:
        # Its nodes take every answer for success.
        assert answers == [None] * 3
    await house.told_of_failure()
    assert house.panel.reports() == [(UUID, "failure")]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_one_that_is_cut_short_fails_all_of_them(house: House) -> None:
    await house.start()
    first, other, cut = requests(house, 2, OURS)
    for sender in (first, other, cut):
        await sender.begin()
    await cut.vanish()
    answers = await finish([first, other])
    assert [answer and answer[0] for answer in answers] == [400] * 2
    assert all(answer and b"stream 1: " in answer[1] for answer in answers)
    await house.told_of_failure()
    assert house.panel.reports() == [(UUID, "failure")]
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_what_does_not_come_fails_all_of_them(house: House) -> None:
    system = house.configuration()["system"]
    await house.start(system=system | {"transfers": {"streams": {"within": 1}}})
    first, other, _ = requests(house, 2, OURS)
    for sender in (first, other):
        await sender.begin()
    answers = await finish([first, other])
    assert [answer and answer[0] for answer in answers] == [400] * 2
    assert all(answer and b"stream 1 did not come within 1 s" in answer[1] for answer in answers)
    await house.told_of_failure()
    # Nor do those do without a first.
    since = len(house.log)
    house.panel.open_transfer(UUID, house.node)
    _, alone, _ = requests(house, 2, OURS)
    await alone.begin()
    (answer,) = await finish([alone])
    assert answer
    assert b"the first request, the one with Multiplex-Stream-Count," in answer[1]
    await house.wait_for_line("the failed transfer is cleaned up", since)
    await house.wait_for_line("the Panel was told of the failure", since)
    assert house.panel.reports() == [(UUID, "failure")] * 2
    assert house.left() == []


@pytest_twisted.ensureDeferred
async def test_a_killed_daemon_leaves_one_transfer_to_the_next(house: House) -> None:
    await house.start()
    senders = requests(house, 3, size=2_000_000)
    for sender in senders:
        await sender.begin()
    world = house.directory / ".volumes.staging" / UUID / "world"
    while not (world.is_dir() and len(os.listdir(world)) == 4):
        await pause()
    await kill(house)
    assert await finish(senders) == [None] * 4
    assert house.panel.reports() == []
    await house.start()
    await house.told_of_failure()
    assert house.panel.reports() == [(UUID, "failure")]
    assert house.left() == []
    assert not [line for line in house.log if "the transfer of before" in line]
    # The token was this one transfer's.
    house.panel.open_transfer(UUID, house.node)
    late = Sender(house, archive(0), token=senders[0]._token, family=form(0, 3, OURS))
    await late.begin()
    assert (await late.finish())[0] == 401
    again = requests(house, 3)
    for sender in again:
        await sender.begin()
    assert await finish(again) == [(200, b"")] * 4


# From one daemon to another


def grow(home: Path) -> None:
    """Make the server one that is worth to be divided."""
    rng = random.Random(5)
    for number in range(60):
        path = home / f"region{number % 8}" / f"r.{number}.mca"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(60_000)))
    os.link(home / "region0" / "r.0.mca", home / "region7" / "again.mca")
    (home / "region3" / "latest").symlink_to("../region1/r.1.mca")
    stamp(home)


@pytest.mark.parametrize("streams", [1, 4, 7])
@pytest.mark.parametrize("archive_format", ["tar_gz", "tar_zstd"])
@pytest_twisted.ensureDeferred
async def test_a_server_moves_in_several_streams(
    pair: Pair, streams: int, archive_format: str
) -> None:
    pair.add_server()
    grow(pair.source.files())
    before = seen(pair.source.files())
    await pair.start()
    await pair.transfer(multiplex_streams=streams, archive_format=archive_format)
    await pair.destination.wait_for_line("state success")
    await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    assert seen(pair.destination.files()) == before
    assert pair.panel.reports() == [(UUID, "success")]
    assert pair.panel.deletions == [(UUID, 204)]
    files = 60 + 2 + 1
    sent = await pair.source.wait_for_line(" sent ")
    received = await pair.destination.wait_for_line(" received ")
    assert f" bytes, {files} files, " in sent
    assert f" bytes, {files} files, " in received


@pytest_twisted.ensureDeferred
async def test_by_fewer_places_than_streams_it_moves_too(pair: Pair) -> None:
    pair.add_server()
    grow(pair.source.files())
    before = seen(pair.source.files())
    system = pair.destination.configuration()["system"]
    transfers = system["transfers"] | {"concurrent": 1}
    await pair.start(destination={"system": system | {"transfers": transfers}})
    await pair.transfer(multiplex_streams=5)
    await pair.destination.wait_for_line("state success")
    assert seen(pair.destination.files()) == before


@pytest.mark.parametrize("victim", ["source", "destination"])
@pytest_twisted.ensureDeferred
async def test_whoever_is_killed_the_server_stays_and_moves_the_next_time(
    pair: Pair, victim: str
) -> None:
    pair.add_server(4_000_000)
    grow(pair.source.files())
    before = seen(pair.source.files())
    await pair.start()
    # It describes a server to a transfer's nodes alone, by which these know what is over.
    pair.panel.strict = True
    assert pair.destination.line
    pair.destination.line.bytes_per_second = SLOW
    await pair.transfer(multiplex_streams=3)
    await pair.destination.wait_for_line("receiving the archive")
    await kill(getattr(pair, victim))
    getattr(pair, victim).age()
    pair.destination.line.bytes_per_second = FAST
    await getattr(pair, victim).start()
    stays = "it is still here" if victim == "source" else "state failure"
    await pair.source.wait_for_line(stays)
    # Nothing of it may be told any more when the next one is open.
    await pair.destination.wait_for_line("the Panel was told of the failure")
    while pair.panel.in_transfer(UUID) or pair.destination.left():
        await pause()
    assert pair.panel.node_of(UUID) is pair.source.node
    assert seen(pair.source.files()) == before
    assert pair.destination.left() == []
    await pair.transfer(multiplex_streams=3)
    await pair.source.wait_for_line(f"{UUID}: its files are deleted")
    assert seen(pair.destination.files()) == before
