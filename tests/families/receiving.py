"""Checks of the cells of receiving: each family's upload, sent to the endpoint."""

from __future__ import annotations

from tests.families.case import Case
from tests.families.endpoint import Outcome
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


async def files_arrive(case: Case) -> None:
    assert case.part_names[:2] == [*case.cell.parts]
    taken(await case.endpoint.upload(case.recording), case.recording)


async def backups_arrive(case: Case) -> None:
    assert set(case.cell.parts) <= set(case.part_names)
    outcome = await case.endpoint.upload(case.recording)
    taken(outcome, case.recording)
    del outcome.kept[LOG_PLACE]
    assert outcome.kept == {
        backup.path(UUID): data for backup, data in case.recording.backups.items()
    }
    told = sorted(BACKUPS) if case.recording.family == CALAGOPUS else None
    assert [told and sorted(backups) for _, backups in outcome.told] == [told]


async def no_backups_arrive(case: Case) -> None:
    assert not [name for name in case.part_names if "backup" in name]
    outcome = await case.endpoint.upload(case.recording)
    taken(outcome, case.recording)
    assert (outcome.kept, outcome.told) == ({}, [("success", None)])
    # What nobody knows is skipped, and what another family knows is what it is there.
    unknown = case.recording.adding(Part("backups", b"x", "backups.tar.gz"))
    outcome = await case.endpoint.upload(unknown)
    taken(outcome, case.recording)
    assert outcome.kept == {}
    outcome = await case.endpoint.upload(case.recording.adding(*RECORDINGS[PELICAN].parts))
    taken(outcome, case.recording)
    assert len(outcome.kept) == len(BACKUPS) + 1


async def log_arrives(case: Case) -> None:
    (name,) = case.cell.parts
    assert case.part_names.count(name) == 1
    outcome = await case.endpoint.upload(case.recording)
    taken(outcome, case.recording)
    assert outcome.kept[LOG_PLACE] == LOG
    outcome = await case.endpoint.upload(case.recording.without(name))
    taken(outcome, case.recording)
    assert LOG_PLACE not in outcome.kept


async def no_log_arrives(case: Case) -> None:
    assert not [name for name in case.part_names if "log" in name]
    for recording in (case.recording, case.recording.adding(Part("log", LOG, "install.log"))):
        outcome = await case.endpoint.upload(recording)
        taken(outcome, recording)
        assert outcome.kept == {}


async def wrong_checksum_fails(case: Case) -> None:
    assert case.recording.checksums[0] == case.cell.parts[0]
    for name in case.recording.checksums:
        wrong = case.recording.altered(name, lambda checksum: checksum[::-1])
        outcome = await case.endpoint.upload(wrong)
        refused(outcome, refusal(case.recording), case.cell.reason)


async def missing_checksum_fails(case: Case) -> None:
    assert case.recording.checksums[0] == case.cell.parts[0]
    for name in case.recording.checksums:
        outcome = await case.endpoint.upload(case.recording.without(name))
        refused(outcome, refusal(case.recording), case.cell.reason)


async def truncated_upload_fails(case: Case) -> None:
    recording = case.recording
    begin = recording.body.index(recording.archive)
    end = begin + len(recording.archive)
    last = recording.body.rindex(recording.boundary.encode())
    for size in (begin, begin + 50, end, end + 10, (end + last) // 2, last):
        outcome = await case.endpoint.break_off(recording, size)
        refused(outcome, None, case.cell.reason)
        # The same when what cuts it short, such as a proxy, ends the request in good form.
        outcome = await case.endpoint.relay(recording.content_type, recording.body[:size])
        refused(outcome, 400, case.cell.reason)
