"""Checks of the cells of sending: a transfer to a node of each family."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from typing import Any

import attrs
import pyzstd

from handbook.compatibility import Thing, Way, cell
from tests.families.case import Case, general
from tests.families.departures import Departure
from tests.families.nodes import SentPart
from tests.families.recordings import BACKUPS, LOG
from tests.support.sample_server import UUID

#: Bytes a second, and bytes: what is sent so slowly can be cut short.
SLOW, LARGE = 200_000, 1_000_000
#: Which of the names of a thing's parts.
DATA, CHECKSUMS = slice(0, 1), slice(1, 2)


def unpacked(part: SentPart) -> dict[str, bytes]:
    """Return the data of each file in an archive, and see that it is of its name's format."""
    unpackers: dict[str, Any] = {
        "archive.tar.gz": gzip.open,
        "archive.tar.zst": pyzstd.open,
    }
    unpack = unpackers[part.filename]
    found = {}
    with unpack(io.BytesIO(part.data)) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if not member.isdir():
                data = tar.extractfile(member)
                assert data is not None
                assert member.isreg()
                found[member.name.removeprefix("./")] = data.read()
    return found


async def moved(case: Case, *, log: bool = True) -> Departure:
    departure = case.depart()
    if not log:
        departure.log.unlink()
    await departure.send()
    assert departure.has_moved
    return departure


async def files_are_sent(case: Case) -> None:
    departure = await moved(case)
    node = departure.destination
    assert [part.name for part in node.sent if part.name in case.cell.parts] == [*case.cell.parts]
    level = (departure.sender.tree / "world" / "level.dat").read_bytes()
    assert unpacked(node.kept["archive"]) == {"world/level.dat": level, "link": level}
    assert node.sent[0].name == "archive"
    assert departure.sender.panel.calls == []


async def backups_are_sent(case: Case) -> None:
    departure = await moved(case)
    backup, checksum = case.cell.parts
    kept = {
        name: part.data for name, part in departure.destination.kept.items() if "backup" in name
    }
    assert kept == {backup.replace("UUID", uuid): data for uuid, data in BACKUPS.items()}
    sent = [general(part.name) for part in departure.destination.sent]
    assert (sent.count(backup), sent.count(checksum)) == (2, 2)


async def no_backups_are_sent(case: Case) -> None:
    departure = await moved(case)
    assert not [part for part in departure.destination.sent if "backup" in part.name]
    assert len([*departure.sender.backup_directory.rglob("*.tar.gz")]) == len(BACKUPS)


async def log_is_sent(case: Case) -> None:
    departure = await moved(case)
    (name,) = case.cell.parts
    log = departure.destination.kept[name]
    assert (log.filename, log.data) == ("install.log", LOG)
    without = await moved(case, log=False)
    assert not [part for part in without.destination.sent if "log" in part.name]


async def log_is_sent_and_skipped(case: Case) -> None:
    departure = await moved(case)
    node = departure.destination
    (log,) = [part for part in node.sent if "log" in part.name]
    assert (log.name, log.data) == (case.cell.parts[0], LOG)
    assert [*node.kept] == ["archive"]
    outcome = await case.endpoint.relay(node.content_type, node.body)
    assert (outcome.status, outcome.kept) == (200, {f"install/{UUID}.log": LOG})


def names(family: str, which: slice) -> set[str]:
    """Return the names of parts that are sent to nodes of a family: the data, or the checksums."""
    things = (Thing.ARCHIVE, Thing.BACKUPS)
    return {name for thing in things for name in cell(family, Way.SEND, thing).parts[which]}


async def fails_in_turn(
    case: Case, which: slice, change: Callable[[SentPart], SentPart | None]
) -> None:
    """See that a server stays when the line makes something else of any one of these parts."""
    whole = case.depart()
    await whole.send()
    its_names = names(case.recording.family, which)
    sent = [part.name for part in whole.destination.sent if general(part.name) in its_names]
    assert len(sent) == 1 + len(BACKUPS) * (len(its_names) - 1)
    for name in sent:
        departure = case.depart(
            lambda part, name=name: change(part) if part.name == name else part
        )
        await departure.send()
        assert departure.destination.kept == {}
        assert departure.stays(case.cell.reason), (name, departure.sender.lines)


async def changed_part_fails(case: Case) -> None:
    assert case.cell.parts[0] in names(case.recording.family, CHECKSUMS)
    await fails_in_turn(case, DATA, lambda part: attrs.evolve(part, data=part.data + b"x"))


async def lost_checksum_fails(case: Case) -> None:
    assert case.cell.parts[0] in names(case.recording.family, CHECKSUMS)
    await fails_in_turn(case, CHECKSUMS, lambda part: None)


async def broken_connection_fails(case: Case) -> None:
    departure = case.depart(breaks=True, rate=SLOW)
    (departure.sender.tree / "large").write_bytes(os.urandom(LARGE))
    await departure.send()
    assert departure.stays(case.cell.reason), departure.sender.lines
    assert departure.destination.kept == {}
    # Not all of it was sent, so nobody had to be asked whose it is.
    assert departure.sender.panel.calls == ["failure"]
