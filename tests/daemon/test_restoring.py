"""Backups that real daemons restore, from their own disks and from stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.restoring import BACKUP, BEFORE, BROKEN, UUID, RestoringNode
from tests.support.archives import odd_tree, seen
from tests.support.backup_store import BackupStore
from tests.support.backups import MTIME, packed_backup
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.small_disk import small_disk
from wingsd.config import PELICAN, PTERODACTYL

ALLOWED = {"system": {"backups": {"restore_host_allowlist": ["127.0.0.1/32"]}}}


@pytest.fixture
def store(daemon: ReceivingNode) -> Iterator[BackupStore]:
    made = BackupStore(packed_backup(BEFORE), daemon)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def restoring(daemon: ReceivingNode) -> RestoringNode:
    daemon.variables["SSL_CERT_FILE"] = str(daemon.ca)
    return RestoringNode(daemon)


@pytest.mark.parametrize("family", ["pelican", "calagopus"])
async def test_a_backup_replaces_all_files_or_is_laid_over_them(
    restoring: RestoringNode, family: str
) -> None:
    restoring.store()
    await restoring.start(family=family)
    permissions = ("*", "meta.calagopus") if family == "calagopus" else ("*",)
    browser = await restoring.watch(permissions)
    assert await restoring.restore() is True
    assert restoring.content() == {**BROKEN, **BEFORE}
    level = (restoring.home / "world/level.dat").stat()
    assert (level.st_mtime, level.st_mode & 0o777) == (MTIME, 0o640)
    await browser.wait_for("backup restore completed")
    assert await restoring.restore(truncate_directory=True) is True
    assert restoring.content() == BEFORE
    (kept,) = (restoring.daemon.staging / ".quarantine").iterdir()
    assert (kept / "new/plugin.jar").read_bytes() == b"came later"
    # Pelican's page shows no other lines than those of the console.
    shown_as = "console output" if family == "pelican" else "daemon message"

    def shows(text: str) -> bool:
        events = (each for each in browser.events if each.event == shown_as)
        return any(text in line for each in events for line in each.args)

    await until(lambda: shows("Completed server restoration from local backup."))
    assert browser.count("backup restore started") == (2 if family == "calagopus" else 0)
    expected = ("true",) if family == "calagopus" else ("",)
    assert (await browser.wait_for("backup restore completed")).args == expected
    assert shows("(restoring): world/level.dat")
    await restoring.cleaned()
    while (await restoring.ask("GET"))[1]["utilization"]["disk_bytes"] != sum(
        map(len, BEFORE.values())
    ):
        pass  # while the files are measured
    await browser.close()


#: Archives that cannot be restored, and what users read.
FAULTS = {
    packed_backup(BEFORE)[:-20]: "the archive ends in the middle",
    b"\x1f\x8b" + bytes(2000): "the archive is damaged",
    b"": "the archive is empty",
    packed_backup({"a": b"a", "../../escape": b"x"}): 'its name contains ".."',
    b"PK\x03\x04" + bytes(2000): "the archive ends in the middle",
    b"nonsense" * 100: "the archive is of an unknown kind",
}


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_a_backup_that_cannot_be_read_whole_changes_nothing(
    restoring: RestoringNode,
) -> None:
    await restoring.start()
    browser = await restoring.watch()
    for number, (data, reason) in enumerate(FAULTS.items(), start=1):
        restoring.store(data)
        assert await restoring.restore(truncate_directory=True) is False
        assert restoring.content() == BROKEN
        await until(partial(lambda times: browser.count("install completed") == times, number))
        said = [event.args[0] for event in browser.events if event.event == "daemon message"]
        assert said[-1].startswith("The backup was not restored, and the server's files are as")
        assert reason in said[-1]
    assert browser.count("backup restore completed") == 0
    await restoring.cleaned()
    await browser.close()


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_what_cannot_be_restored_is_refused_in_the_words_of_wings(
    restoring: RestoringNode,
) -> None:
    await restoring.start(family=PELICAN)
    path = f"/backup/{BACKUP}/restore"
    s3 = {"adapter": "s3", "truncate_directory": True}
    blocked = "The provided backup link resolves to a blocked address."
    for body, status, error in (
        ({"adapter": "wings"}, 404, "The requested backup was not found on this server."),
        (s3, 400, "The download_url field is required when the backup adapter is set to S3."),
        (s3 | {"download_url": "http://127.0.0.1:8080/backup"}, 400, blocked),
        (s3 | {"download_url": "http://[::1]:8080/backup"}, 400, blocked),
        (
            s3 | {"download_url": "ftp://store.example/backup"},
            400,
            "The provided backup link must use HTTP or HTTPS.",
        ),
        (
            s3 | {"download_url": "https://"},
            400,
            "The provided backup link is not a valid URL.",
        ),
        ({"adapter": "tape"}, 400, "The data provided in the request could not be validated."),
    ):
        answer = await restoring.ask("POST", path, body)
        assert (answer[0], answer[1]["error"]) == (status, error)
    answer = await restoring.ask("POST", "/backup/x/restore", {"adapter": "wings"})
    assert answer[1]["error"] == "The backup identifier must be a valid UUID."
    assert restoring.content() == BROKEN
    assert restoring.staged() == []


@pytest.mark.promise("restore-excludes-other-work")
async def test_a_second_restore_and_a_deletion_of_the_backup_are_refused_meanwhile(
    restoring: RestoringNode, store: BackupStore
) -> None:
    restoring.store()
    await restoring.start(**ALLOWED)
    url = f"{store.url}/halved"
    await restoring.panel.restore(UUID, BACKUP, adapter="s3", download_url=url)
    second = await restoring.ask("POST", f"/backup/{BACKUP}/restore", {"adapter": "wings"})
    assert (second[0], second[1]["error"]) == (409, "server is currently being restored")
    start = await restoring.ask("POST", "/power", {"action": "start"})
    assert (start[0], start[1]["error"]) == (409, "server is currently being restored")
    deletion = await restoring.ask("DELETE", f"/backup/{BACKUP}")
    assert (deletion[0], deletion[1]["error"]) == (409, "server is currently being restored")
    # Nothing tells whose it is: it may be that of any server that uses one.
    unowned = await restoring.panel.ask(restoring.daemon.node, "DELETE", f"/api/backups/{BACKUP}")
    assert (unowned[0], unowned[1]["error"]) == (409, "server is currently being restored")
    store.second_half.callback(None)
    await until(lambda: restoring.panel.restored(UUID) is not None)
    assert restoring.panel.restored(UUID) is True


@pytest.mark.promise("restore-needs-room")
async def test_a_disk_that_fills_up_leaves_the_server_whole(
    daemon: ReceivingNode, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        restoring = RestoringNode(daemon, disk / "volumes")
        restoring.store(packed_backup({"large": os.urandom(9 << 20)}))
        await restoring.start(system={"data": str(disk / "volumes")})
        for truncate in (True, False):
            assert await restoring.restore(truncate_directory=truncate) is False
            assert restoring.content() == BROKEN
            await restoring.cleaned()
        # It is the reserve that is kept, or the disk that is full.
        said = restoring.daemon.lines_with("The backup was not restored")
        assert all("disk" in line or "space" in line for line in said)
        await daemon.close()


async def test_a_backup_that_this_node_made_brings_everything_back(
    restoring: RestoringNode,
) -> None:
    odd_tree(restoring.home)
    await restoring.start()
    before = seen(restoring.home, owner=False)
    restoring.panel.backups.add(BACKUP, UUID)
    order = {"adapter": "wings", "uuid": BACKUP, "ignore": ""}
    assert (await restoring.ask("POST", "/backup", order))[0] == 202
    await until(lambda: restoring.panel.backups.known[BACKUP].is_over)
    shutil.rmtree(restoring.home / "a")
    (restoring.home / "deep").rename(restoring.home / "moved")
    (restoring.home / "later").write_bytes(b"later")
    assert await restoring.restore(truncate_directory=True) is True
    assert seen(restoring.home, owner=False) == before


# Backups in a store that speaks HTTPS are restored by a real daemon, whatever the store does


REFUSED = {
    "page": 'a supported content type. "text/html; charset=utf-8" is not application/x-gzip.',
    "untyped": 'a supported content type. "" is not application/x-gzip.',
    "missing": "returned an invalid response status: 404 Not Found",
    "into-the-nodes-network": "resolves to a blocked address.",
    "circle": "redirects too many times.",
}
#: What is found out while it is read, and what users are told.
FAILING = {
    "cut": "The file could not be downloaded",
    "disguised-page": "the archive is of an unknown kind",
}


KEY = "system.backups.restore_host_allowlist"
BLOCKED = "The provided backup link resolves to a blocked address."


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_a_backup_in_s3_is_read_wholly_before_anything_is_changed(
    restoring: RestoringNode, store: BackupStore
) -> None:
    await restoring.start(**ALLOWED)
    browser = await restoring.watch()
    path = f"/backup/{BACKUP}/restore"
    request = {"adapter": "s3", "truncate_directory": True}
    for name, error in REFUSED.items():
        status, told = await restoring.ask(
            "POST", path, request | {"download_url": f"{store.url}/{name}"}
        )
        assert (status, told["error"].partition("The provided backup link ")[0]) == (400, "")
        assert told["error"].endswith(error)
    assert restoring.staged() == []
    for name, error in FAILING.items():
        assert await restoring.restore(**request, download_url=f"{store.url}/{name}") is False
        said = [event.args[0] for event in browser.events if event.event == "daemon message"]
        assert error in said[-1]
    assert restoring.content() == BROKEN
    await browser.close()


@pytest.mark.parametrize("name", ["also-ok", "slow", "redirected"])
async def test_a_backup_in_s3_is_restored(
    restoring: RestoringNode, store: BackupStore, name: str
) -> None:
    await restoring.start(**ALLOWED)
    browser = await restoring.watch()
    request = {"adapter": "s3", "truncate_directory": True, "download_url": f"{store.url}/{name}"}
    assert await restoring.restore(**request) is True
    assert restoring.content() == BEFORE
    await browser.wait_for("daemon message", "Completed server restoration from S3 backup.")
    await browser.close()


@pytest.mark.promise("s3-links-are-checked")
async def test_where_no_node_of_the_family_checks_the_panels_link_may_be_private(
    restoring: RestoringNode, store: BackupStore
) -> None:
    """The link itself; what it redirects to may not."""
    await restoring.start(family=PTERODACTYL)
    request = {"adapter": "s3", "truncate_directory": True}
    url = f"{store.url}/redirected"
    status, told = await restoring.ask(
        "POST", f"/backup/{BACKUP}/restore", request | {"download_url": url}
    )
    assert (status, told["error"], KEY in told["detail"]) == (400, BLOCKED, True)
    assert store.asked == ["/redirected"]
    assert await restoring.restore(**request, download_url=f"{store.url}/ok") is True
    assert restoring.content() == BEFORE


@pytest.mark.promise("s3-links-are-checked")
async def test_a_store_on_the_nodes_own_network_is_not_asked_unless_it_is_allowed(
    restoring: RestoringNode, store: BackupStore
) -> None:
    await restoring.start(family=PELICAN)
    request = {"adapter": "s3", "download_url": f"{store.url}/ok"}
    status, told = await restoring.ask("POST", f"/backup/{BACKUP}/restore", request)
    assert (status, told["error"], KEY in told["detail"]) == (400, BLOCKED, True)
    assert store.asked == []
    assert "127.0.0.1" in await restoring.daemon.wait_for_line(KEY)
