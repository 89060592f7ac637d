"""The proofs of what is received: each family's upload, as its nodes write it, at the endpoint."""

from __future__ import annotations

from handbook.compatibility import Fate, Thing, Way
from tests.families.endpoint import Outcome
from tests.families.proofs import Arrival, proves
from tests.families.recordings import BACKUPS, LOG, RECORDINGS, Recording
from tests.support.sample_server import UUID
from tests.support.upload_forms import Part
from wingsd.config import CALAGOPUS, PELICAN

LOG_PLACE = f"install/{UUID}.log"


def taken(outcome: Outcome, recording: Recording) -> None:
    """See that the server is here, and that all who wait for it know."""
    assert (outcome.status, outcome.error, outcome.state) == (200, "", "completed")
    assert (outcome.files, outcome.left) == (recording.files, [UUID])
    assert [call for call, _ in outcome.told] == ["success"]


def refused(outcome: Outcome, status: int | None, reason: str) -> None:
    """See that nothing of the server is here, that the Panel knows, and that people read why."""
    assert (outcome.status, outcome.error) == (status, reason if status else "")
    assert any(reason in line for line in outcome.said)
    assert (outcome.files, outcome.kept, outcome.left) == ({}, {}, [])
    assert (outcome.told, outcome.state) == ([("failure", None)], "failure")


def refusal(recording: Recording) -> int | None:
    """Return the status of a refusal: Calagopus' nodes get none, since they heed none."""
    return None if recording.family == CALAGOPUS else 400


@proves(Way.RECEIVE, Thing.ARCHIVE, Fate.ARRIVES)
async def files_are_received(it: Arrival) -> None:
    assert it.part_names[:2] == [*it.cell.parts]
    taken(await it.endpoint.upload(it.recording), it.recording)


@proves(Way.RECEIVE, Thing.BACKUPS, Fate.ARRIVES)
async def backups_are_received(it: Arrival) -> None:
    assert set(it.cell.parts) <= set(it.part_names)
    outcome = await it.endpoint.upload(it.recording)
    taken(outcome, it.recording)
    del outcome.kept[LOG_PLACE]
    assert outcome.kept == {
        backup.path(UUID): data for backup, data in it.recording.backups.items()
    }
    told = sorted(BACKUPS) if it.recording.family == CALAGOPUS else None
    assert [told and sorted(backups) for _, backups in outcome.told] == [told]


@proves(Way.RECEIVE, Thing.BACKUPS, Fate.NONE)
async def no_backups_are_received(it: Arrival) -> None:
    assert not [name for name in it.part_names if "backup" in name]
    outcome = await it.endpoint.upload(it.recording)
    taken(outcome, it.recording)
    assert (outcome.kept, outcome.told) == ({}, [("success", None)])
    # What nobody knows is skipped, and what another family knows is what it is there.
    unknown = it.recording.adding(Part("backups", b"x", "backups.tar.gz"))
    outcome = await it.endpoint.upload(unknown)
    taken(outcome, it.recording)
    assert outcome.kept == {}
    outcome = await it.endpoint.upload(it.recording.adding(*RECORDINGS[PELICAN].parts))
    taken(outcome, it.recording)
    assert len(outcome.kept) == len(BACKUPS) + 1


@proves(Way.RECEIVE, Thing.LOG, Fate.ARRIVES)
async def a_log_is_received(it: Arrival) -> None:
    (name,) = it.cell.parts
    assert it.part_names.count(name) == 1
    outcome = await it.endpoint.upload(it.recording)
    taken(outcome, it.recording)
    assert outcome.kept[LOG_PLACE] == LOG
    outcome = await it.endpoint.upload(it.recording.without(name))
    taken(outcome, it.recording)
    assert LOG_PLACE not in outcome.kept


@proves(Way.RECEIVE, Thing.LOG, Fate.NONE)
async def no_log_is_received(it: Arrival) -> None:
    assert not [name for name in it.part_names if "log" in name]
    for recording in (it.recording, it.recording.adding(Part("log", LOG, "install.log"))):
        outcome = await it.endpoint.upload(recording)
        taken(outcome, recording)
        assert outcome.kept == {}


@proves(Way.RECEIVE, Thing.WRONG, Fate.FAILS)
async def a_wrong_checksum_is_received(it: Arrival) -> None:
    assert it.recording.checksums[0] == it.cell.parts[0]
    for name in it.recording.checksums:
        wrong = it.recording.altered(name, lambda checksum: checksum[::-1])
        outcome = await it.endpoint.upload(wrong)
        refused(outcome, refusal(it.recording), it.cell.reason)


@proves(Way.RECEIVE, Thing.MISSING, Fate.FAILS)
async def no_checksum_is_received(it: Arrival) -> None:
    assert it.recording.checksums[0] == it.cell.parts[0]
    for name in it.recording.checksums:
        outcome = await it.endpoint.upload(it.recording.without(name))
        refused(outcome, refusal(it.recording), it.cell.reason)


@proves(Way.RECEIVE, Thing.CUT, Fate.FAILS)
async def half_a_server_is_received(it: Arrival) -> None:
    recording = it.recording
    begin = recording.body.index(recording.archive)
    end = begin + len(recording.archive)
    last = recording.body.rindex(recording.boundary.encode())
    for size in (begin, begin + 50, end, end + 10, (end + last) // 2, last):
        outcome = await it.endpoint.break_off(recording, size)
        refused(outcome, None, it.cell.reason)
        # The same when what cuts it short, such as a proxy, ends the request in good form.
        outcome = await it.endpoint.relay(recording.content_type, recording.body[:size])
        refused(outcome, 400, it.cell.reason)
