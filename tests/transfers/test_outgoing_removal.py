"""Backups that have moved with a server, where they are to be removed at its source."""

from __future__ import annotations

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.logged_errors import LoggedErrors
from tests.support.sample_server import UUID
from tests.transfers.sending import BACKUPS, House, answer, keep, sending, until
from wingsd.backups.local import Removal
from wingsd.statedb import Outcome

house = pytest.fixture(sending)
PLACES = [f"{BACKUPS[0]}.tar.zst", f"{UUID}/{BACKUPS[1]}.tar.gz"]
OTHERS = [f"{UUID}/{BACKUPS[2]}.tar.gz", "other.tar"]


@pytest.fixture
def laden(house: House) -> House:
    for place in (*PLACES, *OTHERS):
        keep(house, place, b"backup")
    return house


def start(house: House, *, delete: bool = True) -> Deferred[None]:
    asked = tuple(BACKUPS[:2])
    return house.start(archive_format="tar", backups=asked, delete_backups=delete)


def kept(house: House) -> list[str]:
    root = house.tree.parent / "backups"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def is_over(house: House) -> bool:
    (entry,) = house.store.transfers()
    return entry.outcome is not None


@pytest_twisted.ensureDeferred
async def test_the_destinations_word_removes_none_and_the_panels_those_that_moved(
    laden: House,
) -> None:
    await start(laden)
    assert kept(laden) == sorted(PLACES + OTHERS)
    (entry,) = laden.store.transfers()
    assert (entry.removals, entry.outcome) == (tuple(PLACES), None)
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(OTHERS)


@pytest_twisted.ensureDeferred
async def test_the_panels_word_may_come_before_the_destinations(laden: House) -> None:
    waiting = answer(laden)
    over = start(laden)
    await waiting
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(OTHERS)
    laden.destination.waits["POST"].callback(None)
    await over


@pytest.mark.parametrize("moved", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_panel_that_does_not_have_it_deleted_is_asked_first(
    laden: House, moved: bool
) -> None:
    await start(laden)
    (transfer,) = laden.sender._left_behind.values()
    laden.world.owned = not moved
    await Deferred.fromCoroutine(transfer.check_left_behind())
    assert kept(laden) == sorted(OTHERS if moved else PLACES + OTHERS)
    assert is_over(laden)


@pytest_twisted.ensureDeferred
async def test_none_goes_where_the_destination_has_the_same_directory(laden: House) -> None:
    laden.destination.features = "symlinks, hard-links, streams, shared-backups"
    await start(laden)
    assert laden.said("the same system.backup_directory: no backup is removed")
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(PLACES + OTHERS)


@pytest.mark.parametrize("delete", [True, False])
@pytest_twisted.ensureDeferred
async def test_it_is_asked_by_a_mark_that_goes_with_the_transfer(
    laden: House, delete: bool
) -> None:
    waiting = answer(laden)
    over = start(laden, delete=delete)
    await waiting
    (asking, *_) = laden.destination.requests
    mark = asking.getHeader("X-Backup-Directory-Mark")
    names = [f".backups-mark-{UUID}-{mark}"] * delete
    assert kept(laden) == sorted([*PLACES, *OTHERS, *names])
    laden.destination.waits["POST"].callback(None)
    await over
    assert kept(laden) == sorted(PLACES + OTHERS)


@pytest.mark.parametrize("later", [True, False])
@pytest_twisted.ensureDeferred
async def test_what_has_come_back_meanwhile_is_not_removed(laden: House, later: bool) -> None:
    await start(laden)
    (transfer,) = laden.sender._left_behind.values()
    laden.world.current, laden.world.owned = "the server that came back", False
    if later:
        await Deferred.fromCoroutine(transfer.check_left_behind())
    else:
        await laden.sender.release(UUID)
        laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert laden.world.calls[-1] not in ("forget", "store away")
    assert (kept(laden), laden.world.told) == (sorted(PLACES + OTHERS), [])


@pytest.mark.parametrize("status", [400, 500])
@pytest_twisted.ensureDeferred
async def test_a_transfer_that_fails_removes_none(laden: House, status: int) -> None:
    laden.destination.status = status
    await start(laden)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(PLACES + OTHERS)


@pytest_twisted.ensureDeferred
async def test_who_does_not_ask_for_it_keeps_all_of_them(laden: House) -> None:
    await start(laden, delete=False)
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(PLACES + OTHERS)


@pytest_twisted.ensureDeferred
async def test_one_that_cannot_be_removed_is_told_and_the_others_go(
    laden: House, logged_errors: LoggedErrors
) -> None:
    await start(laden)
    place = laden.tree.parent / "backups" / PLACES[0]
    place.unlink()
    place.mkdir()
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    assert kept(laden) == sorted(OTHERS)
    (line,) = [line for line in logged_errors.lines if "could not be removed" in line]
    assert f"{place}" in line
    (entry,) = laden.store.transfers()
    assert entry.outcome is Outcome.SUCCESS


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_dies_before_they_are_gone_has_not_ended_the_transfer(
    laden: House,
) -> None:
    dying: Deferred[None] = Deferred()
    servers = laden.servers

    class Dying(Removal):
        async def remove(self, server: str, paths: object) -> None:
            await dying

    backups = Dying(servers.backups.directory, laden.disk)
    laden.sender._servers = attrs.evolve(servers, backups=backups)
    await start(laden)
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    (entry,) = laden.store.unfinished()
    assert entry.removals == tuple(PLACES)
    dying.callback(None)
    await until(lambda: is_over(laden))


@pytest_twisted.ensureDeferred
async def test_the_logged_bytes_are_those_of_its_seconds(
    laden: House, logged_errors: LoggedErrors
) -> None:
    keep(laden, PLACES[0], bytes(1 << 20))
    await start(laden)
    (line,) = [line for line in logged_errors.lines if f"{UUID}: sent " in line]
    await laden.sender.release(UUID)
    laden.sender.deleted(UUID)
    await until(lambda: is_over(laden))
    archive = laden.store.transfers()[0].bytes
    assert archive is not None
    assert f"{UUID}: sent {archive + (1 << 20) + len(b'backup')} bytes, " in line
