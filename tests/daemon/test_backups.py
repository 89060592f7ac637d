"""Backups that a real daemon makes, asked for by curl, and looked at with GNU tar."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from tests.archive.test_regular_files import contents, restored
from tests.daemon.backed_up_server import BACKUP, OTHER, UUID, BackedUpServer
from tests.support.archives import seen
from tests.support.faults import Answer
from tests.support.go import GoRestoreFailed
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.tokens import signed_url_token
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

PLACES = {
    PTERODACTYL: f"{BACKUP}.tar.gz",
    PELICAN: f"{UUID}/{BACKUP}.tar.gz",
    CALAGOPUS: f"{BACKUP}.tar.gz",
}
STRANGER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"


@pytest.fixture
def server(daemon: ReceivingNode) -> BackedUpServer:
    return BackedUpServer(daemon)


@pytest.mark.parametrize("family", [PELICAN, CALAGOPUS])
async def test_a_backup_has_the_server_whole_where_its_family_keeps_it(
    server: BackedUpServer, tmp_path: Path, family: str
) -> None:
    server.fill()
    await server.daemon.start_loaded(family=family)
    told = await server.made()
    archive = server.backups / PLACES[family]
    data = archive.read_bytes()
    kind = "sha256" if family == "calagopus" else "sha1"
    assert told == {
        "checksum": hashlib.new(kind, data).hexdigest(),
        "checksum_type": kind,
        "size": len(data),
        "successful": True,
        "parts": None,
        **({"files": 5, "browsable": False, "streaming": False} if kind == "sha256" else {}),
    }
    assert len(data) < 1 << 20, "the holes are not in it"
    assert archive.stat().st_mode & 0o777 == 0o600
    assert seen(server.unpacked(PLACES[family], tmp_path / "out")) == seen(server.home)
    assert (tmp_path / "out/sparse").stat().st_blocks < 10_000
    left = {path.name for path in archive.parent.iterdir()}
    assert left == {archive.name, f"{BACKUP}.catalogue.json"}


@contextmanager
def changing(home: Path) -> Iterator[None]:
    """Have the files in `home` grow, shrink, vanish and change meanwhile, as fast as it goes."""
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with (home / "growing.log").open("ab") as file:
                file.write(b"line\n" * 10_000)
                if file.tell() > 2_000_000:
                    file.truncate(0)
            os.truncate(home / "shrinking", 2_000_000 if number % 2 else 10)
            (home / f"vanishing {number % 50}").write_bytes(bytes(10_000))
            with suppress(FileNotFoundError):
                (home / f"vanishing {(number + 25) % 50}").unlink()
            with suppress(OSError):
                (home / f"dir {number % 9}").mkdir()
            with suppress(OSError):
                (home / f"dir {(number + 4) % 9}").rmdir()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.promise("backup-of-changing-files-is-valid")
async def test_a_backup_of_files_that_change_is_whole_each_time(
    server: BackedUpServer, tmp_path: Path
) -> None:
    server.home.mkdir(parents=True)
    (server.home / "shrinking").write_bytes(os.urandom(3_000_000))
    (server.home / "steady").write_bytes(os.urandom(2_000_000))
    await server.daemon.start_loaded()
    numbers = itertools.count()
    # Until a file has changed in the moment it was read: not each backup sees that.
    with changing(server.home):
        while not any("while it was read" in line for line in server.daemon.log):
            number = next(numbers)
            backup = f"5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6d{number:02}"
            assert (await server.made(backup))["successful"]
            out = await deferToThread(
                server.unpacked, f"{backup}.tar.gz", tmp_path / f"out {number}"
            )
            assert (out / "steady").read_bytes() == (server.home / "steady").read_bytes()


@pytest.mark.parametrize("family", [PELICAN, CALAGOPUS])
async def test_refusals_are_those_of_the_family(server: BackedUpServer, family: str) -> None:
    server.home.mkdir(parents=True)
    await server.daemon.start_loaded(family=family)
    path = f"/api/servers/{UUID}/backup"
    usual = {"adapter": "wings", "uuid": BACKUP, "ignore": ""}
    refused = {
        "The backup identifier must be a valid UUID.": {"uuid": "../../etc"},
        "This node cannot make backups of the kind 'restic'.": {"adapter": "restic"},
    }
    for text, change in refused.items():
        status, answer = await server.ask("POST", path, usual | change)
        assert (status, answer["error"]) == (400, text)
    assert (await server.ask("POST", path, {"adapter": "wings"}))[0] == 400
    assert (await server.ask("POST", f"/api/servers/{STRANGER}/backup", usual))[0] == 404
    empty: dict[str, Any] | None = {} if family == CALAGOPUS else None
    assert await server.begin() == (202, empty)
    await until(lambda: server.panel.backups.known[BACKUP].is_over)
    status, answer = await server.ask("POST", path, usual)
    assert (status, answer["error"]) == (409, "backup already exists")
    # Its own server's only.
    for owner in (STRANGER, UUID):
        status, answer = await server.ask("DELETE", f"/api/servers/{owner}/backup/{OTHER}")
        assert status == 404
    assert answer["error"] == "The requested backup was not found on this server."
    assert (await server.ask("DELETE", f"{path}/{BACKUP}"))[0] == (200 if empty == {} else 204)
    assert [*server.backups.rglob("*")] == []


@pytest.mark.promise("backup-report-is-repeated")
async def test_a_panel_in_maintenance_hears_of_a_backup_over_restarts(
    server: BackedUpServer,
) -> None:
    server.fill()
    await server.daemon.start_loaded()
    server.panel.inject(f"/backups/{BACKUP}", Answer(503), times=1000)
    await server.begin()
    await server.daemon.wait_for_line("The backup is complete")
    archive = server.backups / PLACES[PTERODACTYL]
    data = archive.read_bytes()
    for _ in range(2):
        await server.daemon.kill()
        calls = len(server.panel.calls)
        await server.daemon.start()
        await until(
            lambda calls=calls: any(  # type: ignore[misc]
                "/backups/" in call.path for call in server.panel.calls[calls:]
            )
        )
        assert archive.read_bytes() == data
    assert not any("/servers/reset" in call.path for call in server.panel.calls[-1:])
    server.panel.heal(f"/backups/{BACKUP}")
    known = server.panel.backups.known[BACKUP]
    await until(lambda: known.is_over)
    assert known.told is not None
    assert known.told["size"] == len(data)
    await server.daemon.loaded()


async def test_a_killed_node_leaves_no_part_and_reports_the_failure(
    server: BackedUpServer,
) -> None:
    server.fill()
    changes: dict[str, Any] = {"system": {"backups": {"write_limit": 1}}}
    (server.home / "large").write_bytes(os.urandom(5 << 20))
    await server.daemon.start_loaded(**changes)
    await server.begin()
    await until(lambda: [*server.backups.glob(".*.part")] != [])
    await server.daemon.kill()
    assert server.panel.backups.known[BACKUP].told is None
    await server.daemon.start_loaded()
    told = server.panel.backups.known[BACKUP].told
    assert told is not None, "before the restart is reported"
    assert (told["successful"], told["size"], told["checksum"]) == (False, 0, "")
    assert [*server.backups.rglob("*")] == []
    assert (await server.made(OTHER))["successful"]


@pytest.mark.promise("full-backup-disk-is-refused")
async def test_a_full_disk_leaves_nothing_and_tells_why(server: BackedUpServer) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    server.home.mkdir(parents=True)
    (server.home / "large").write_bytes(os.urandom(6 << 20))
    server.backups.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(server.backups)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        await server.daemon.start_loaded(system={"transfers": {"disk_reserve": 0}})
        assert (await server.made())["successful"] is False
        await server.daemon.wait_for_line("the disk is full")
        assert [*server.backups.rglob("*")] == []
        # With a reserve it ends before the disk is full.
        await server.daemon.kill()
        await server.daemon.start_loaded(system={"transfers": {"disk_reserve": 1}})
        (server.backups / "other").write_bytes(bytes(4_100_000))
        status, answer = await server.begin(OTHER)
        assert (status, answer["code"]) == (409, "no-space-for-backup")
        assert "system.transfers.disk_reserve" in answer["detail"]
    finally:
        await server.daemon.kill()
        subprocess.run(["umount", "-l", str(server.backups)], check=True)


@pytest.mark.promise("backup-is-for-its-server")
@pytest.mark.parametrize("family", [PELICAN, CALAGOPUS])
async def test_a_backup_is_downloaded_by_its_own_server_alone(
    server: BackedUpServer, family: str
) -> None:
    server.fill()
    await server.daemon.start_loaded(family=family)
    await server.made()
    key = server.daemon.node.token

    async def get(owner: str | None) -> tuple[int, bytes]:
        if family == CALAGOPUS:
            owner = None
        token = signed_url_token(key, owner, "backup-download", family, backup_uuid=BACKUP)
        return await server.fetch(f"/download/backup?token={token}")

    data = (server.backups / PLACES[family]).read_bytes()
    assert await get(UUID) == (200, data)
    if family != CALAGOPUS:
        server.panel.add_server(server.settings(STRANGER), server.daemon.node)
        await server.daemon.kill()
        await server.daemon.start_loaded(family=family)
        assert (await get(STRANGER))[0] == 404
        assert await get(UUID) == (200, data)


async def test_what_wings_has_left_is_downloaded_and_deleted(server: BackedUpServer) -> None:
    server.home.mkdir(parents=True)
    server.backups.mkdir()
    (server.backups / f"{BACKUP}.tar.gz").write_bytes(b"an archive of Wings")
    await server.daemon.start_loaded()
    key = server.daemon.node.token
    token = signed_url_token(key, UUID, "backup-download", PTERODACTYL, backup_uuid=BACKUP)
    assert await server.fetch(f"/download/backup?token={token}") == (200, b"an archive of Wings")
    listed = await server.daemon.wingsctl("backups", "--json")
    assert [each["backup"] for each in listed.json["backups"]] == [BACKUP]
    assert (await server.ask("DELETE", f"/api/servers/{UUID}/backup/{BACKUP}"))[0] == 204
    assert [*server.backups.iterdir()] == []


@pytest.mark.parametrize(("family", "keeps"), [(PELICAN, False), (CALAGOPUS, True)])
async def test_a_deleted_server_has_its_backups_deleted_where_its_family_does_so(
    server: BackedUpServer, family: str, keeps: bool
) -> None:
    server.fill()
    await server.daemon.start_loaded(family=family)
    await server.made()
    assert (await server.ask("DELETE", f"/api/servers/{UUID}"))[0] in (200, 204)
    assert ([*server.backups.rglob("*")] != []) is keeps


async def test_pelicans_panel_deletes_all_backups_of_a_server(server: BackedUpServer) -> None:
    server.home.mkdir(parents=True)
    await server.daemon.start_loaded(family=PELICAN)
    for backup in (BACKUP, OTHER):
        await server.made(backup)
    assert (await server.ask("DELETE", f"/api/servers/{UUID}/deleteAllBackups"))[0] == 204
    assert [*server.backups.rglob("*")] == []


async def test_calagopus_panel_hears_of_a_deletion(server: BackedUpServer) -> None:
    server.home.mkdir(parents=True)
    await server.daemon.start_loaded(family=CALAGOPUS)
    await server.made()
    body = {"adapter": "wings", "foreground": False, "server": UUID}
    path = f"/api/backups/{BACKUP}"
    assert await server.ask("DELETE", path, body | {"server": STRANGER}) != (202, {})
    assert await server.ask("DELETE", path, body) == (202, {})
    known = server.panel.backups.known[BACKUP]
    await until(lambda: known.deletions != [])
    assert known.deletions == [True]
    assert [*server.backups.rglob("*")] == []
    assert (await server.ask("DELETE", path, body))[0] == 404


@pytest.mark.promise("deletion-cancels-a-backup")
async def test_a_backup_that_is_being_made_is_deleted_without_its_server(
    server: BackedUpServer,
) -> None:
    server.fill()
    (server.home / "large").write_bytes(os.urandom(8 << 20))
    slow = {"backups": {"write_limit": 1}}
    await server.daemon.start_loaded(family=CALAGOPUS, system=slow)
    assert (await server.begin())[0] == 202
    path = f"/api/backups/{BACKUP}"
    assert await server.ask("DELETE", path, {"adapter": "wings"}) == (202, {})
    known = server.panel.backups.known[BACKUP]
    await until(lambda: known.deletions != [])
    assert known.deletions == [True]
    assert [*server.backups.rglob("*")] == []


@pytest.mark.promise("damaged-backup-is-found")
async def test_an_operator_lists_and_verifies_backups(server: BackedUpServer) -> None:
    server.fill()
    await server.daemon.start_loaded()
    await server.made()
    archive = server.backups / PLACES[PTERODACTYL]
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    damaged = await server.daemon.wingsctl("verify", BACKUP, "--json")
    assert (damaged.status, damaged.json["whole"]) == (1, False)
    assert damaged.json["fault"]
    (listed,) = (await server.daemon.wingsctl("backups", UUID, "--json")).json["backups"]
    assert (listed["server"], listed["state"]) == (UUID, "damaged")
    assert listed["bytes"] == len(data)


@pytest.mark.promise("backups-suit-the-destination")
async def test_an_operator_has_backups_rewritten_for_wings_over_a_kill(
    server: BackedUpServer, tmp_path: Path
) -> None:
    server.fill()
    (server.home / "large").write_bytes(os.urandom(16 << 20))
    await server.daemon.start_loaded()
    await server.made()
    await server.daemon.kill()
    # It is killed long before it has rewritten 16 MiB.
    changes: dict[str, Any] = {"system": {"backups": {"write_limit": 1}}}
    await server.daemon.start_loaded(**changes)
    archive = server.backups / PLACES[PTERODACTYL]
    with pytest.raises(GoRestoreFailed):
        restored(archive.read_bytes(), tmp_path)
    old = archive.read_bytes()
    ended = server.daemon.wingsctl("backups", "for-wings", "--all")
    await until(lambda: [*server.backups.glob(".*.part")] != [])
    await server.daemon.kill()
    assert (await ended).status == 3
    assert archive.read_bytes() == old
    await server.daemon.start_loaded()
    left = {path.name for path in server.backups.iterdir()}
    assert left == {archive.name, f"{BACKUP}.catalogue.json"}
    again = await server.daemon.wingsctl("backups", "for-wings", "--all")
    assert "1 rewritten, 0 in this form already, 0 failed" in again.out
    (tmp_path / "new").mkdir()
    assert contents(restored(archive.read_bytes(), tmp_path / "new")) == contents(server.home)
    assert (await server.daemon.wingsctl("verify", BACKUP)).status == 0
    once_more = await server.daemon.wingsctl("backups", "for-wings", UUID)
    assert "0 rewritten, 1 in this form already, 0 failed" in once_more.out
