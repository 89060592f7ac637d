"""A server that leaves for a node of the same storage pool: its files stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.web.server import Site

from tests.support.reactor import until
from tests.support.sample_server import UUID, sha256
from tests.support.sender import Sender, at_upload, sending
from wingsd.statedb import Outcome

POOLED = "symlinks, hard-links, storage-pool, shared-volume"


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    yield from sending(tmp_path, storage_pool="Attic")


def asked(sender: Sender, header: str) -> list[str | None]:
    """Return a header of each request that the destination had."""
    return [request.getHeader(header) for request in sender.destination.requests]


def marks(sender: Sender) -> list[Path]:
    return list(sender.tree.parent.glob(".pool-mark-*"))


async def test_a_node_that_has_the_files_is_sent_none(sender: Sender) -> None:
    sender.destination.features = POOLED
    seen: list[list[Path]] = []
    sender.destination.on_request = lambda: seen.append(marks(sender))
    await sender.start()
    assert sender.destination.archives == [b""]
    assert sender.destination.checksums.archive == sha256(b"")
    assert asked(sender, "X-Storage-Pool") == ["Attic", "Attic"]
    (mark,) = set(asked(sender, "X-Storage-Pool-Mark"))
    # It is on the volume as long as somebody may look for it, and no longer.
    assert [[path.name for path in paths] for paths in seen] == [[f".pool-mark-{UUID}-{mark}"]] * 2
    assert marks(sender) == []
    assert sender.calls == ["stop", "remove"]
    assert sender.states == ["pending", "processing", "success", "completed"]
    assert sender.said("it is in the storage pool Attic: its files stay there")


async def test_another_familys_node_gets_the_pool_and_everything(sender: Sender) -> None:
    sender.destination.features = ""
    await sender.start()
    assert len(sender.destination.archives[0]) > 1000
    assert asked(sender, "X-Storage-Pool") == ["Attic", "Attic"]
    # A mark with an upload says that there is no archive in it.
    assert asked(sender, "X-Storage-Pool-Mark")[1] is None
    assert sender.servers.shared == "Attic"


async def test_a_node_that_does_not_have_the_files_gets_an_ordinary_copy(sender: Sender) -> None:
    await sender.start()
    assert len(sender.destination.archives[0]) > 1000
    assert asked(sender, "X-Storage-Pool")[1] is None
    assert sender.servers.shared == ""
    (entry,) = sender.store.transfers()
    assert entry.pool == ""


async def test_the_pool_is_not_named_to_calagopus_nodes(sender: Sender) -> None:
    await sender.start(archive_format="tar")
    assert asked(sender, "X-Storage-Pool") == [None, None]


async def test_one_volume_in_two_pools_fails_before_the_server_is_stopped(sender: Sender) -> None:
    sender.destination.features = "symlinks, shared-volume"
    await sender.start()
    assert (sender.calls, sender.panel.calls, sender.server.hold) == ([], ["failure"], "")
    assert sender.said("both nodes have the same volume, but not the same storage pool")
    assert marks(sender) == []


@pytest.mark.parametrize("features", [POOLED, ""])
async def test_a_pooled_transfer_is_recorded_first(sender: Sender, features: str) -> None:
    sender.destination.features = features
    seen: list[Any] = []

    def look() -> None:
        (entry,) = sender.store.transfers()
        seen.append((entry.pool, sender.servers.shared))

    sender.destination.on_request = look
    await sender.start()
    assert seen == [("", ""), ("Attic", "Attic")]
    assert sender.servers.shared == "Attic"


@pytest.mark.promise("panel-decides-in-a-pool")
@pytest.mark.parametrize("moved", [True, False])
async def test_the_panel_decides_after_a_refusal_in_a_pool(sender: Sender, moved: bool) -> None:
    sender.destination.features, sender.destination.status = POOLED, 500
    sender.panel.owned = not moved
    await sender.start()
    assert sender.panel.calls == (["owns"] if moved else ["owns", "failure"])
    assert sender.servers.shared == ("Attic" if moved else "")
    assert sender.states[-1] == ("completed" if moved else "failure")


@pytest.mark.promise("pool-files-are-untouched")
async def test_a_deletion_by_the_panel_ends_a_pooled_transfer_as_a_success(sender: Sender) -> None:
    sender.destination.features = ""
    over = await sender.start_until(at_upload)
    await until(lambda: sender.transfers._open[UUID].is_sent)
    await sender.delete()
    await over
    assert sender.states[-2:] == ["success", "completed"]
    assert sender.panel.calls == []
    # It is recorded when the files have been moved away.
    await until(lambda: [e.outcome for e in sender.store.transfers()] == [Outcome.SUCCESS])
    assert (sender.servers.shared, marks(sender)) == ("Attic", [])


def answer_early(sender: Sender) -> None:
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

    site = sender._site
    site.buildProtocol = lambda address: eager(Site.buildProtocol(site, address))


@pytest.mark.parametrize("moved", [True, False])
async def test_a_daemon_that_ends_as_it_sends_asks_the_panel(sender: Sender, moved: bool) -> None:
    sender.destination.features = ""
    sender.panel.owned = not moved
    over = await sender.start_until(at_upload)
    await until(lambda: sender.transfers._open[UUID].is_sent)
    await sender.transfers.stop()
    await over
    assert sender.panel.calls == (["owns"] if moved else ["owns", "failure"])
    assert sender.states[-1] == ("completed" if moved else "failure")


async def test_an_answer_may_come_before_everything_was_sent(sender: Sender) -> None:
    sender.destination.features = ""
    answer_early(sender)
    with (sender.tree / "large").open("wb") as file:
        file.truncate(1 << 33)  # which would take longer than anybody waits
    await sender.start()
    assert sender.states[-2:] == ["success", "completed"]
    assert sender.panel.calls == []


async def test_shared_files_of_a_moved_server_stay_in_place(sender: Sender) -> None:
    sender.destination.features = POOLED
    # It once came by a direct transfer, and would be known by its files at the next start.
    sender.store.add_description(UUID, "digest", "{}")
    sender.store.mark_arrived(1.0, UUID)
    await sender.start()
    (transfer,) = sender.transfers._left_behind.values()
    sender.panel.owned = False
    await Deferred.fromCoroutine(transfer.check_left_behind())
    assert sender.calls[-2:] == ["discard", "store away backups"]
    assert sender.store.descriptions() == []
    (entry,) = sender.store.transfers()
    assert entry.outcome is Outcome.SUCCESS
