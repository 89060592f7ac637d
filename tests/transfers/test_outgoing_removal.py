"""Backups that have moved with a server, where they are to be removed at its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.logged_errors import Logged
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.sender import BACKUPS, Sender, at_answer, sending
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL, BackupsConfig
from wingsd.statedb import Outcome
from wingsd.transfers import manager

sender = pytest.fixture(sending)
PLACES = [f"{BACKUPS[0]}.tar.zst", f"{UUID}/{BACKUPS[1]}.tar.gz"]
OTHERS = [f"{UUID}/{BACKUPS[2]}.tar.gz", "other.tar"]


@pytest.fixture
def with_backups(sender: Sender) -> Sender:
    for place in (*PLACES, *OTHERS):
        sender.keep(place, b"backup")
    return sender


def start(sender: Sender, *, delete: bool = True) -> Deferred[None]:
    asked = tuple(BACKUPS[:2])
    return sender.start(archive_format="tar", backups=asked, delete_backups=delete)


def kept(sender: Sender) -> list[str]:
    root = sender.tree.parent / "backups"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def delete(sender: Sender) -> None:
    await sender.delete()
    await until(lambda: is_over(sender))


def is_over(sender: Sender) -> bool:
    (entry,) = sender.store.transfers()
    return entry.outcome is not None


@pytest.mark.promise("sent-backups-go-with-the-server")
async def test_moved_backups_are_removed_on_the_panels_deletion_only(with_backups: Sender) -> None:
    await start(with_backups)
    assert kept(with_backups) == sorted(PLACES + OTHERS)
    (entry,) = with_backups.store.transfers()
    assert (entry.removals, entry.outcome) == (tuple(PLACES), None)
    await delete(with_backups)
    assert kept(with_backups) == sorted(OTHERS)


@pytest.mark.parametrize("moved", [True, False])
async def test_a_panel_without_deletion_is_asked_first(with_backups: Sender, moved: bool) -> None:
    await start(with_backups)
    (transfer,) = with_backups.transfers._left_behind.values()
    with_backups.panel.owned = not moved
    await Deferred.fromCoroutine(transfer.check_left_behind())
    assert kept(with_backups) == sorted(OTHERS if moved else PLACES + OTHERS)
    await until(lambda: is_over(with_backups))


async def test_a_node_that_stops_leaves_the_question_to_the_next_daemon(
    with_backups: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "DELETION_WITHIN", 0)
    asked: Deferred[None] = Deferred()
    answer: Deferred[bool] = Deferred()

    async def owns(uuid: str) -> bool:
        asked.callback(None)
        return await answer

    monkeypatch.setattr(with_backups.panel, "owns", owns)
    await start(with_backups)
    await asked
    await with_backups.transfers.stop()
    with_backups.store.close()
    answer.callback(False)
    with_backups.store.open()
    assert (is_over(with_backups), kept(with_backups)) == (False, sorted(PLACES + OTHERS))


@pytest.mark.promise("sent-backups-go-with-the-server")
async def test_no_backup_is_removed_from_a_shared_directory(with_backups: Sender) -> None:
    with_backups.destination.features = "symlinks, hard-links, streams, shared-backups"
    await start(with_backups)
    assert with_backups.said("the same system.backup_directory: no backup is removed")
    await delete(with_backups)
    assert kept(with_backups) == sorted(PLACES + OTHERS)


@pytest.mark.parametrize("delete", [True, False])
async def test_a_mark_shows_a_shared_directory(with_backups: Sender, delete: bool) -> None:
    waiting = at_answer(with_backups)
    over = start(with_backups, delete=delete)
    await waiting
    (asking, *_) = with_backups.destination.requests
    mark = asking.getHeader("X-Backup-Directory-Mark")
    names = [f".backups-mark-{UUID}-{mark}"] * delete
    assert kept(with_backups) == sorted([*PLACES, *OTHERS, *names])
    with_backups.destination.waits["POST"].callback(None)
    await over
    assert kept(with_backups) == sorted(PLACES + OTHERS)


@pytest.mark.promise("source-copy-goes-when-moved")
@pytest.mark.parametrize("later", [True, False])
async def test_backups_of_a_returned_server_stay(with_backups: Sender, later: bool) -> None:
    await start(with_backups)
    (transfer,) = with_backups.transfers._left_behind.values()
    with_backups.servers.current, with_backups.panel.owned = "the server that came back", False
    if later:
        await Deferred.fromCoroutine(transfer.check_left_behind())
    else:
        await with_backups.transfers.release(UUID)
        with_backups.transfers.deleted(UUID)
    await until(lambda: is_over(with_backups))
    assert with_backups.calls[-1] not in ("discard", "store away")
    assert (kept(with_backups), with_backups.panel.calls) == (sorted(PLACES + OTHERS), [])


@pytest.mark.promise("sent-backups-go-with-the-server")
@pytest.mark.parametrize("status", [400, 500])
async def test_a_transfer_that_fails_removes_none(with_backups: Sender, status: int) -> None:
    with_backups.destination.status = status
    await start(with_backups)
    await until(lambda: is_over(with_backups))
    assert kept(with_backups) == sorted(PLACES + OTHERS)


async def test_no_backup_is_removed_unless_asked_for(with_backups: Sender) -> None:
    await start(with_backups, delete=False)
    await delete(with_backups)
    assert kept(with_backups) == sorted(PLACES + OTHERS)


async def test_a_backup_that_cannot_be_removed_is_logged_and_others_are_removed(
    with_backups: Sender, logged: Logged
) -> None:
    await start(with_backups)
    place = with_backups.tree.parent / "backups" / PLACES[0]
    place.unlink()
    place.mkdir()
    await delete(with_backups)
    assert kept(with_backups) == sorted(OTHERS)
    (line,) = [line for line in logged.lines if "could not be removed" in line]
    assert f"{place}" in line
    (entry,) = with_backups.store.transfers()
    assert entry.outcome is Outcome.SUCCESS


@pytest.fixture
def dropping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sender]:
    """A node of a family, which keeps the backups of deleted servers or not."""
    family, keeps = request.param
    config = BackupsConfig(remove_backups_on_server_delete=not keeps)
    for node in sending(tmp_path, family=family, backups=config):
        for place in (*PLACES, *OTHERS):
            node.keep(place, b"backup")
        yield node


@pytest.mark.promise("dropped-backups-are-kept-for-days")
@pytest.mark.parametrize(
    ("dropping", "asked", "expected"),
    [
        ((PELICAN, False), {"backups": (BACKUPS[1],)}, [f"{UUID}/{BACKUPS[2]}.tar.gz"]),
        # By the API of its Panel, which keeps its records, an order names none.
        ((PELICAN, False), {}, []),
        ((PELICAN, True), {"backups": (BACKUPS[1],)}, []),
        ((PTERODACTYL, False), {"backups": (BACKUPS[1],)}, []),
        ((CALAGOPUS, False), {"backups": (BACKUPS[1],), "archive_format": "tar"}, []),
    ],
    indirect=["dropping"],
)
async def test_what_the_page_of_pelican_drops_is_noted_when_the_server_has_moved(
    dropping: Sender, asked: dict[str, Any], expected: list[str]
) -> None:
    await dropping.start(**asked)
    assert dropping.store.left() == []
    await delete(dropping)
    noted = dropping.store.left()
    assert [(each.place, each.server) for each in noted] == [(each, UUID) for each in expected]
    # The files stay for the days.
    assert kept(dropping) == sorted(PLACES + OTHERS)


@pytest.mark.promise("dropped-backups-are-kept-for-days")
@pytest.mark.parametrize("dropping", [(PELICAN, False)], indirect=True)
async def test_nothing_is_noted_of_a_transfer_that_fails(dropping: Sender) -> None:
    dropping.destination.status = 400
    await dropping.start(backups=(BACKUPS[1],))
    await until(lambda: is_over(dropping))
    assert dropping.store.age_left(0) == []
