"""A server that leaves for a node of the same storage pool: its files stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.server import Site

from tests.support.sample_server import UUID, sha256
from tests.transfers.peers import closed_port
from tests.transfers.sending import BACKUPS, House, answer, keep, reactor, send, sending, until
from wingsd.backups.attachments import Backup
from wingsd.config import PELICAN
from wingsd.statedb import Outcome
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.peer.tls import PeerTls

POOLED = "symlinks, hard-links, storage-pool, shared-volume"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from sending(tmp_path, "Attic")


def asked(house: House, header: str) -> list[str | None]:
    """Return a header of each request that the destination had."""
    return [request.getHeader(header) for request in house.destination.requests]


def marks(house: House) -> list[Path]:
    return list(house.tree.parent.glob(".pool-mark-*"))


# What it is told and sent


@pytest_twisted.ensureDeferred
async def test_a_node_that_has_the_files_is_sent_none(house: House) -> None:
    house.destination.features = POOLED
    seen: list[list[Path]] = []
    house.destination.on_request = lambda: seen.append(marks(house))
    await house.start()
    assert house.destination.archives == [b""]
    assert house.destination.checksums.archive == sha256(b"")
    assert asked(house, "X-Storage-Pool") == ["Attic", "Attic"]
    (mark,) = set(asked(house, "X-Storage-Pool-Mark"))
    # It is on the volume as long as somebody may look for it, and no longer.
    assert [[path.name for path in paths] for paths in seen] == [[f".pool-mark-{UUID}-{mark}"]] * 2
    assert marks(house) == []
    assert house.world.calls == ["stop", "remove"]
    assert house.states == ["pending", "processing", "success", "completed"]
    assert house.said("it is in the storage pool Attic: its files stay there")


@pytest_twisted.ensureDeferred
async def test_backups_are_sent_to_it_all_the_same_and_stay_here(house: House) -> None:
    keep(house, f"{UUID}/{BACKUPS[0]}.tar.gz", b"one")
    house.destination.features = POOLED
    await house.start(backups=(BACKUPS[0],))
    assert house.destination.came_along == {Backup(BACKUPS[0], "tar.gz", PELICAN): b"one"}


@pytest_twisted.ensureDeferred
async def test_a_node_of_another_family_is_told_of_the_pool_and_sent_everything(
    house: House,
) -> None:
    house.destination.features = ""
    await house.start()
    assert len(house.destination.archives[0]) > 1000
    assert asked(house, "X-Storage-Pool") == ["Attic", "Attic"]
    # A mark with an upload says that there is no archive in it.
    assert asked(house, "X-Storage-Pool-Mark")[1] is None
    assert house.world.shared == "Attic"


@pytest_twisted.ensureDeferred
async def test_a_node_that_does_not_have_the_files_gets_an_ordinary_copy(house: House) -> None:
    await house.start()
    assert len(house.destination.archives[0]) > 1000
    assert asked(house, "X-Storage-Pool")[1] is None
    assert house.world.shared == ""
    (entry,) = house.store.transfers()
    assert entry.pool == ""


@pytest_twisted.ensureDeferred
async def test_calagopus_nodes_hear_of_no_pool(house: House) -> None:
    await house.start(archive_format="tar")
    assert asked(house, "X-Storage-Pool") == [None, None]


@pytest_twisted.ensureDeferred
async def test_one_volume_in_two_pools_fails_it_before_the_server_is_stopped(
    house: House,
) -> None:
    house.destination.features = "symlinks, shared-volume"
    await house.start()
    assert (house.world.calls, house.world.told, house.world.hold) == ([], ["failure"], "")
    assert house.said("both nodes have the same volume, but not the same storage pool")
    assert marks(house) == []


# What is never forgotten


@pytest.mark.parametrize("features", [POOLED, ""])
@pytest_twisted.ensureDeferred
async def test_it_is_written_down_before_the_other_node_can_take_it(
    house: House, features: str
) -> None:
    house.destination.features = features
    seen: list[Any] = []

    def look() -> None:
        (entry,) = house.store.transfers()
        seen.append((entry.pool, house.world.shared))

    house.destination.on_request = look
    await house.start()
    assert seen == [("", ""), ("Attic", "Attic")]
    assert house.world.shared == "Attic"


@pytest.mark.parametrize("moved", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_the_panels_to_judge_since_the_files_were_there(
    house: House, moved: bool
) -> None:
    house.destination.features, house.destination.status = POOLED, 500
    house.world.owned = not moved
    await house.start()
    assert house.world.told == (["owns"] if moved else ["owns", "failure"])
    assert house.world.shared == ("Attic" if moved else "")
    assert house.states[-1] == ("completed" if moved else "failure")


def move_to(house: House, port: int) -> None:
    """Have the upload go to another port than the question."""
    (transfer,) = house.sender._open.values()
    url = f"http://127.0.0.1:{port}/api/transfers"
    transfer._upload._destination = PeerClient(url, "Bearer token", reactor, PeerTls())


@pytest_twisted.ensureDeferred
async def test_who_cannot_be_reached_has_not_taken_it(house: House) -> None:
    house.destination.features = ""
    with closed_port() as port:
        house.destination.on_request = lambda: move_to(house, port)
        await house.start()
    assert house.world.told == ["failure"]
    assert (house.world.hold, house.world.shared) == ("", "")


@pytest_twisted.ensureDeferred
async def test_the_panels_word_ends_it_while_it_is_still_being_sent(house: House) -> None:
    house.destination.features = ""
    begun = send(house)
    over = house.start()
    await begun
    await until(lambda: house.sender._open[UUID].is_sent)
    await house.sender.release(UUID)
    house.sender.deleted(UUID)
    await over
    assert house.states[-2:] == ["success", "completed"]
    assert house.world.told == []
    (entry,) = house.store.transfers()
    assert entry.outcome is Outcome.SUCCESS
    assert (house.world.shared, marks(house)) == ("Attic", [])


@pytest_twisted.ensureDeferred
async def test_a_cancellation_is_the_panels_to_judge_as_well(house: House) -> None:
    house.destination.features = POOLED
    waiting = answer(house)
    over = house.start()
    await waiting
    house.sender.cancel(UUID)
    await over
    assert house.world.told == ["owns", "failure"]
    assert (house.states[-1], house.world.shared) == ("failure", "")


def answer_early(house: House) -> None:
    """Have the destination answer an upload as soon as it has its head, and take no more."""

    def eager(protocol: Any) -> Any:
        heard = protocol.dataReceived

        def data_received(data: bytes) -> None:
            if data.startswith(b"POST"):
                protocol._channel.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                protocol._channel.transport.pauseProducing()
            else:
                heard(data)

        protocol.dataReceived = data_received
        return protocol

    site = house._site
    site.buildProtocol = lambda address: eager(Site.buildProtocol(site, address))


@pytest.mark.parametrize("moved", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_daemon_that_ends_while_it_sends_asks_the_panel(house: House, moved: bool) -> None:
    house.destination.features = ""
    house.world.owned = not moved
    begun = send(house)
    over = house.start()
    await begun
    await until(lambda: house.sender._open[UUID].is_sent)
    await house.sender.stop()
    await over
    assert house.world.told == (["owns"] if moved else ["owns", "failure"])
    assert house.states[-1] == ("completed" if moved else "failure")


@pytest_twisted.ensureDeferred
async def test_an_answer_may_come_before_everything_was_sent(house: House) -> None:
    house.destination.features = ""
    answer_early(house)
    with (house.tree / "large").open("wb") as file:
        file.truncate(1 << 33)  # which would take longer than anybody waits
    await house.start()
    assert house.states[-2:] == ["success", "completed"]
    assert house.world.told == []


# Who looks after it later


@pytest_twisted.ensureDeferred
async def test_what_has_moved_and_nobody_deletes_stays_where_it_is(house: House) -> None:
    house.destination.features = POOLED
    # It once came by hand, and would be known by its files at the next start.
    house.store.add_description(UUID, "digest", "{}")
    house.store.mark_arrived(1.0, UUID)
    await house.start()
    (transfer,) = house.sender._left_behind.values()
    house.world.owned = False
    await Deferred.fromCoroutine(transfer.check_left_behind())
    assert house.world.calls[-2:] == ["forget", "store away backups"]
    assert house.store.descriptions() == []
    (entry,) = house.store.transfers()
    assert entry.outcome is Outcome.SUCCESS
