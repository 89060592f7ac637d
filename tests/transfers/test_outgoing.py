"""The chain of an outgoing transfer: what is done, told and left at each of its ends."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater

from tests.support.sample_server import UUID
from tests.transfers.sending import House, answer, reactor, sending, stop
from wingsd.archive import extract
from wingsd.errors import BadRequest, Conflict, DaemonStopping, EnvironmentFailed
from wingsd.panel.errors import PanelUnreachable
from wingsd.panel.schemas import Build, Configuration, Settings
from wingsd.transfers.errors import DestinationRefused
from wingsd.transfers.outgoing.request import TransferRequest
from wingsd.transfers.outgoing.transfer import MOVED

house = pytest.fixture(sending)


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar}


@pytest_twisted.ensureDeferred
async def test_a_server_goes_through_every_step_in_order(house: House) -> None:
    await house.start()
    assert house.world.calls == ["stop", "remove"]
    assert house.states == ["pending", "processing", "success", "completed"]
    assert house.world.told == []
    assert members(house.destination.archives[0])["link"].issym()
    # What is left of it here is not to be started.
    assert house.world.hold == MOVED


@pytest_twisted.ensureDeferred
async def test_what_it_waits_for_its_turn_is_not_counted(house: House) -> None:
    now, slots = [0.0], house.uploader.slots
    for _ in range(2):
        await slots.acquire()
    over = house.start()
    while not slots.waiting:
        await deferLater(reactor, 0.005)
    (course,) = house.heard.begun
    course.seconds = lambda: now[0]  # type: ignore[attr-defined]
    now[0] = 1e9
    slots.release()
    await over
    assert dict(house.heard.steps)["send"] == 0


@pytest_twisted.ensureDeferred
async def test_a_node_that_does_not_say_that_it_keeps_links_gets_copies(house: House) -> None:
    house.destination.features = ""
    await house.start()
    link = members(house.destination.archives[0])["link"]
    assert (link.isreg(), link.size) == (True, 128_000)


def allow(house: House, disk_space: int) -> None:
    """Have the Panel say that the server may have so many MiB."""
    house.world.configuration = Configuration(Settings(UUID, build=Build(disk_space=disk_space)))


@pytest_twisted.ensureDeferred
async def test_a_server_with_more_than_its_disk_limit_is_not_stopped_and_not_sent(
    house: House,
) -> None:
    allow(house, 1)
    with (house.tree / "world" / "sparse").open("wb") as file:
        file.truncate(64 << 20)
    # Neither before it is measured, nor afterwards.
    for measured in (None, 64 << 20):
        house.world.disk_bytes = measured
        await house.start()
        assert house.said('it may have 1.0 MiB; the largest is "world/sparse" with 64.0 MiB.')
        house.lines.clear()
    assert house.world.calls == []
    assert house.destination.archives == []
    assert house.world.hold == ""
    # Files may have been deleted since it was measured.
    (house.tree / "world" / "sparse").unlink()
    await house.start()
    assert house.states[-1] == "completed"


@pytest_twisted.ensureDeferred
async def test_a_file_that_grew_beyond_the_disk_limit_is_not_sent(house: House) -> None:
    allow(house, 1)
    house.world.disk_bytes = 200_000
    with (house.tree / "world" / "sparse").open("wb") as file:
        file.truncate(64 << 20)
    await house.start()
    assert house.said('with "world/sparse", which takes 64 MiB (0 MiB on this disk)')
    assert house.destination.archives == []
    assert house.world.told.count("failure") == 1
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_a_refusal_reaches_the_console_and_the_panel(house: House) -> None:
    house.destination.status = 409
    house.destination.body = b'{"error": "this server is already on this node"}'
    await house.start()
    assert house.said("this server is already on this node")
    assert house.states == ["pending", "processing", "failed", "failure"]
    assert house.world.told.count("failure") == 1
    assert house.world.calls == ["stop", "remove", "restore"]
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_a_server_is_not_stopped_for_a_node_that_cannot_be_reached(house: House) -> None:
    closed = reactor.listenTCP(0, house._site, interface="127.0.0.1")
    port = closed.getHost().port
    await closed.stopListening()
    await house.start(port)
    assert house.world.calls == []
    assert house.world.told == ["failure"]
    assert house.states == ["pending", "failed", "failure"]
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_stopped_stays(house: House) -> None:
    house.world.faults["stop"] = EnvironmentFailed("the engine is away")
    await house.start()
    assert house.said("the engine is away")
    assert house.world.calls == ["stop"]
    assert (house.world.told, house.world.hold) == (["failure"], "")


@pytest_twisted.ensureDeferred
async def test_files_that_cannot_be_read_fail_it(house: House) -> None:
    house.tree.rename(house.tree.with_name("gone"))
    await house.start()
    assert house.destination.archives == []
    assert house.world.told == ["failure"]
    assert house.states[-1] == "failure"


@pytest_twisted.ensureDeferred
async def test_it_is_not_over_before_its_container_is_there_again(house: House) -> None:
    house.destination.status = 500
    house.world.waits["restore"] = Deferred()
    await house.start()
    # Nobody waits for it, but a daemon that ends now must find what it has to do.
    assert (house.states[-1], house.world.hold) == ("failure", "")
    (entry,) = house.store.unfinished()
    assert entry.step == "SEND"
    house.world.waits["restore"].callback(None)
    assert house.store.unfinished() == []


# What the Panel asks for


@pytest.mark.parametrize(
    ("asked", "filename", "begins"),
    [
        ("", b"archive.tar.gz", b"\x1f\x8b"),
        ("tar", b"archive.tar", b"./"),
        ("tar_gz", b"archive.tar.gz", b"\x1f\x8b"),
        ("tar_xz", b"archive.tar.xz", b"\xfd7zXZ"),
        ("tar_bz2", b"archive.tar.bz2", b"BZh"),
        ("tar_lz4", b"archive.tar.lz4", b"\x04\x22\x4d\x18"),
        ("tar_zstd", b"archive.tar.zst", b"\x28\xb5\x2f\xfd"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_archive_goes_in_the_format_that_is_asked_for(
    house: House, asked: str, filename: bytes, begins: bytes, tmp_path: Path
) -> None:
    await house.start(archive_format=asked)
    assert house.destination.filenames == [filename]
    (archive,) = house.destination.archives
    assert archive.startswith(begins)
    (tmp_path / "arrived").mkdir()
    extract(iter([archive]), str(tmp_path / "arrived"), None, print)
    arrived = tmp_path / "arrived" / "world" / "level.dat"
    assert arrived.read_bytes() == (house.tree / "world" / "level.dat").read_bytes()
    assert house.states[-2:] == ["success", "completed"]


@pytest.mark.parametrize(("asked", "is_compressed"), [("", True), ("none", False)])
@pytest_twisted.ensureDeferred
async def test_the_level_that_is_asked_for_goes_before_the_nodes_own(
    house: House, asked: str, is_compressed: bool
) -> None:
    await house.start(compression_level=asked)
    (archive,) = house.destination.archives
    assert (len(archive) < 128_000 / 2) is is_compressed


@pytest_twisted.ensureDeferred
async def test_a_form_that_nobody_here_knows_is_told_and_the_server_goes(house: House) -> None:
    await house.start(archive_format="itaf_zstd", compression_level="ultra")
    assert house.destination.filenames == [b"archive.tar.gz"]
    assert house.said("the archive format 'itaf_zstd' is not one that this node writes")
    assert house.said("the compression level 'ultra' is not one that this node writes")
    assert house.states[-2:] == ["success", "completed"]


# The answer is lost


@pytest_twisted.ensureDeferred
async def test_a_success_whose_answer_got_lost_is_one(house: House) -> None:
    house.destination.drop, house.world.owned = True, False
    await house.start()
    assert house.world.told == ["owns"]
    assert house.states[-2:] == ["success", "completed"]
    assert house.said("only its answer was lost")
    assert "restore" not in house.world.calls


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_without_a_success_is_a_failure(house: House) -> None:
    house.destination.drop = True
    await house.start()
    assert house.world.told == ["owns", "failure"]
    assert house.states[-2:] == ["failed", "failure"]
    assert (house.world.calls[-1], house.world.hold) == ("restore", "")


# All of them


@pytest_twisted.ensureDeferred
async def test_one_server_has_one_transfer(house: House) -> None:
    there = answer(house)
    over = house.start()
    await there
    with pytest.raises(Conflict) as caught:
        house.start()
    assert caught.value.message == "A transfer is already in progress for this server."
    house.destination.waits["POST"].callback(None)
    await over


def test_an_order_without_an_address_is_refused_and_holds_nothing(house: House) -> None:
    server: Any = house.world
    with pytest.raises(BadRequest):
        house.sender.start(server, TransferRequest("nowhere", "Bearer token"))
    assert (house.world.hold, house.states) == ("", [])


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_goes_gives_up_what_is_not_sent(house: House) -> None:
    there = stop(house)
    house.start()
    await there
    await house.sender.stop()
    assert house.world.told == ["failure"]
    with pytest.raises(DaemonStopping):
        house.start()


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_goes_waits_for_what_is_sent(house: House) -> None:
    there = answer(house)
    house.start()
    await there
    stopped = house.sender.stop()
    assert not stopped.called
    house.destination.waits["POST"].callback(None)
    await stopped
    assert house.states[-1] == "completed"


@pytest_twisted.ensureDeferred
async def test_a_panel_that_cannot_be_told_does_not_keep_the_server(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(uuid: str) -> Deferred[bool]:
        return fail(PanelUnreachable("down", "x"))

    monkeypatch.setattr(house.world, "transfer_failed", down)
    house.world.faults["stop"] = EnvironmentFailed("the engine is away")
    await house.start()
    assert house.world.hold == ""


@pytest_twisted.ensureDeferred
async def test_it_is_counted_with_the_bytes_that_were_sent(house: House) -> None:
    await house.start()
    ((way, error, moved),) = house.heard.over
    assert (way, error) == ("out", None)
    (archive,) = house.destination.archives
    # Around it is the form, with the checksum.
    assert 0 < (moved or 0) - len(archive) < 1000
    steps = [step for step, _ in house.heard.steps]
    assert steps == ["ask", "stop", "retire", "send", "await"]


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_counted_with_its_reason(house: House) -> None:
    house.destination.status = 500
    await house.start()
    ((_, error, _),) = house.heard.over
    assert isinstance(error, DestinationRefused)
