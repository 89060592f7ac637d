"""The proofs of what is sent, by the order of each family's Panel, to a node of that family."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from typing import Any

import attrs
import pyzstd

from handbook.compatibility import Fate, Thing, Way, cell
from tests.families.nodes import SentPart
from tests.families.proofs import Departure, general, proves
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


@proves(Way.SEND, Thing.ARCHIVE, Fate.ARRIVES)
async def files_are_sent(it: Departure) -> None:
    its = it.depart()
    await its.send()
    assert its.has_moved
    node = its.destination
    assert [part.name for part in node.sent if part.name in it.cell.parts] == [*it.cell.parts]
    level = (its.sender.tree / "world" / "level.dat").read_bytes()
    assert unpacked(node.kept["archive"]) == {"world/level.dat": level, "link": level}
    assert node.sent[0].name == "archive"
    assert its.sender.panel.calls == []


@proves(Way.SEND, Thing.BACKUPS, Fate.ARRIVES)
async def backups_are_sent(it: Departure) -> None:
    its = it.depart()
    await its.send()
    assert its.has_moved
    backup, checksum = it.cell.parts
    kept = {name: part.data for name, part in its.destination.kept.items() if "backup" in name}
    assert kept == {backup.replace("UUID", uuid): data for uuid, data in BACKUPS.items()}
    sent = [general(part.name) for part in its.destination.sent]
    assert (sent.count(backup), sent.count(checksum)) == (2, 2)


@proves(Way.SEND, Thing.BACKUPS, Fate.NONE)
async def no_backups_are_sent(it: Departure) -> None:
    its = it.depart()
    await its.send()
    assert its.has_moved
    assert not [part for part in its.destination.sent if "backup" in part.name]
    assert len([*its.sender.backup_directory.rglob("*.tar.gz")]) == len(BACKUPS)


@proves(Way.SEND, Thing.LOG, Fate.ARRIVES)
async def a_log_is_sent(it: Departure) -> None:
    its = it.depart()
    await its.send()
    assert its.has_moved
    (name,) = it.cell.parts
    log = its.destination.kept[name]
    assert (log.filename, log.data) == ("install.log", LOG)
    without = it.depart()
    without.log.unlink()
    await without.send()
    assert without.has_moved
    assert not [part for part in without.destination.sent if "log" in part.name]


@proves(Way.SEND, Thing.LOG, Fate.SKIPPED)
async def a_log_is_sent_and_skipped(it: Departure) -> None:
    its = it.depart()
    await its.send()
    assert its.has_moved
    node = its.destination
    (log,) = [part for part in node.sent if "log" in part.name]
    assert (log.name, log.data) == (it.cell.parts[0], LOG)
    assert [*node.kept] == ["archive"]
    outcome = await it.endpoint.relay(node.content_type, node.body)
    assert (outcome.status, outcome.kept) == (200, {f"install/{UUID}.log": LOG})


def names(family: str, which: slice) -> set[str]:
    """Return the names of parts that are sent to nodes of a family: the data, or the checksums."""
    things = (Thing.ARCHIVE, Thing.BACKUPS)
    return {name for thing in things for name in cell(family, Way.SEND, thing).parts[which]}


async def fails_in_turn(
    it: Departure, which: slice, change: Callable[[SentPart], SentPart | None]
) -> None:
    """See that a server stays when the line makes something else of any one of these parts."""
    whole = it.depart()
    await whole.send()
    its_names = names(it.family, which)
    sent = [part.name for part in whole.destination.sent if general(part.name) in its_names]
    assert len(sent) == 1 + len(BACKUPS) * (len(its_names) - 1)
    for name in sent:
        its = it.depart(lambda part, name=name: change(part) if part.name == name else part)
        await its.send()
        assert its.destination.kept == {}
        assert its.stays(it.cell.reason), (name, its.sender.lines)


@proves(Way.SEND, Thing.WRONG, Fate.FAILS)
async def what_is_sent_comes_as_something_else(it: Departure) -> None:
    assert it.cell.parts[0] in names(it.family, CHECKSUMS)
    await fails_in_turn(it, DATA, lambda part: attrs.evolve(part, data=part.data + b"x"))


@proves(Way.SEND, Thing.MISSING, Fate.FAILS)
async def a_checksum_is_lost_on_its_way(it: Departure) -> None:
    assert it.cell.parts[0] in names(it.family, CHECKSUMS)
    await fails_in_turn(it, CHECKSUMS, lambda part: None)


@proves(Way.SEND, Thing.CUT, Fate.FAILS)
async def half_a_server_is_sent(it: Departure) -> None:
    its = it.depart(breaks=True, rate=SLOW)
    (its.sender.tree / "large").write_bytes(os.urandom(LARGE))
    await its.send()
    assert its.stays(it.cell.reason), its.sender.lines
    assert its.destination.kept == {}
    # Not all of it was sent, so nobody had to be asked whose it is.
    assert its.sender.panel.calls == ["failure"]
