"""Backups that are points of a history, of a real daemon, as each family's Panel orders them."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.daemon.backed_up_server import BACKUP, OTHER, UUID, BackedUpServer
from tests.daemon.test_metrics import LOOPBACK, scraped
from tests.metrics.exposed import Samples
from tests.support.archives import Tree, seen
from tests.support.browser import browse
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.tokens import signed_url_token
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.history.names import PointName, read_names


@pytest.fixture
def server(daemon: ReceivingNode) -> BackedUpServer:
    return BackedUpServer(daemon)


def settings(server: BackedUpServer, kind: str = "history", **history: Any) -> dict[str, Any]:
    """Return settings by which backups are points, and others are not made."""
    place = server.daemon.directory / "history"
    place.mkdir(exist_ok=True)
    return {
        "history": {"directory": str(place)} | history,
        "backups": {"wings": {"kind": kind}},
    }


def names(server: BackedUpServer) -> dict[str, PointName]:
    return read_names(str(server.daemon.directory / "history" / UUID))


async def troubled(daemon: ReceivingNode, state: str) -> float | None:
    """Return what the metric says of histories."""
    found = Samples(await scraped(daemon))
    return found.get("wingsd_histories_troubled", state=state)


async def downloaded(
    server: BackedUpServer, family: str, into: Path, backup: str = BACKUP
) -> Tree:
    """Return what the archive has that a user gets."""
    owner = None if family == CALAGOPUS else UUID
    key = server.daemon.node.token
    token = signed_url_token(key, owner, "backup-download", family, backup_uuid=backup)
    status, data = await server.fetch(f"/download/backup?token={token}")
    assert status == 200
    (into.parent / "archive").write_bytes(data)
    into.mkdir()
    command = ["tar", "-xzpf", str(into.parent / "archive"), "-C", str(into)]
    subprocess.run(command, check=True, capture_output=True)
    return seen(into)


async def deleted(server: BackedUpServer, family: str, backup: str = BACKUP) -> None:
    """Delete a backup as the family's Panel does."""
    if family == CALAGOPUS:
        body = {"adapter": "wings", "foreground": True, "server": UUID}
        assert await server.ask("DELETE", f"/api/backups/{backup}", body) == (202, {})
        known = server.panel.backups.known[backup]
        await until(lambda: known.deletions == [True])
    else:
        status, _ = await server.ask("DELETE", f"/api/servers/{UUID}/backup/{backup}")
        assert status == 204


@pytest.mark.promise("backup-is-a-point")
@pytest.mark.parametrize("family", [PTERODACTYL, CALAGOPUS])
async def test_a_backup_is_a_point_that_is_listed_downloaded_and_deleted(
    server: BackedUpServer, tmp_path: Path, family: str
) -> None:
    server.fill()
    whole = seen(server.home)
    await server.daemon.start_loaded(family=family, system=settings(server))
    told = await server.made()
    (name,) = names(server).values()
    inodes = {path.lstat().st_ino: path for path in server.home.rglob("*")}
    files = [path for path in inodes.values() if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    assert told == {
        "checksum": name.root,
        "checksum_type": "sha256",
        "size": size,
        "successful": True,
        "parts": None,
        **({"files": 5, "browsable": False, "streaming": False} if family == CALAGOPUS else {}),
    }
    assert [*server.backups.rglob("*")] == []
    (listed,) = (await server.daemon.wingsctl("backups", UUID, "--json")).json["backups"]
    assert (listed["backup"], listed["point"], listed["bytes"]) == (BACKUP, 1, size)
    # The past, whatever has become of the server.
    (server.home / "world/level.dat").write_bytes(b"griefed")
    assert await downloaded(server, family, tmp_path / "out") == whole
    status, answer = await server.begin()
    assert (status, answer["error"]) == (409, "backup already exists")
    assert (await server.made(OTHER))["successful"]
    refused = await server.daemon.wingsctl("history", "delete", UUID, "1")
    assert refused.status != 0
    assert f"delete the backup in the Panel: {BACKUP}" in refused.err
    await deleted(server, family)
    assert [*names(server)] == [OTHER]
    shown = (await server.daemon.wingsctl("history", UUID, "--json")).json
    assert [(each["number"], each["backups"]) for each in shown["points"]] == [(2, [OTHER])]


@pytest.mark.promise("backup-is-a-point")
async def test_a_schedule_of_the_panel_replaces_the_oldest_backup_at_its_limit(
    server: BackedUpServer, tmp_path: Path
) -> None:
    """A scheduled task has the oldest one deleted, and the next one made at once."""
    server.fill()
    await server.daemon.start_loaded(system=settings(server))
    trees: dict[str, Tree] = {}
    for number in range(5):
        (server.home / "world/level.dat").write_bytes(b"%d" % number * 1000)
        if len(trees) == 2:
            oldest = next(iter(trees))
            await deleted(server, PTERODACTYL, oldest)
            del trees[oldest]
        backup = str(uuid4())
        assert (await server.made(backup))["successful"]
        trees[backup] = seen(server.home)
    assert [*names(server)] == [*trees]
    for backup, tree in trees.items():
        assert await downloaded(server, PTERODACTYL, tmp_path / backup, backup) == tree
    shown = (await server.daemon.wingsctl("history", UUID, "--json")).json
    found = [(each["number"], each["backups"]) for each in shown["points"]]
    older, newer = trees
    assert found == [(5, [newer]), (4, [older])]


@pytest.mark.promise("backup-is-a-point")
async def test_what_an_ignore_list_has_is_not_in_the_backup(
    server: BackedUpServer, tmp_path: Path
) -> None:
    server.fill()
    await server.daemon.start_loaded(system=settings(server))
    told = await server.made(ignore="*.dat\n/sparse\n/empty/")
    assert told["size"] == 100_000 + len("#!/bin/sh\n") + len("name") + 300_000
    whole = seen(server.home)
    found = await downloaded(server, PTERODACTYL, tmp_path / "out")
    assert {*whole} - {*found} == {b"/world/level.dat", b"/sparse", b"/empty"}
    # A further name is what is left of its file.
    assert (tmp_path / "out/zz hard link").stat().st_size == 300_000
    told = await server.made(OTHER, ignore="*")
    assert told["successful"] is False
    await server.daemon.wait_for_line("leaves nothing of the server")
    assert [*names(server)] == [BACKUP]


@pytest.mark.promise("backup-is-a-point")
async def test_backups_stay_when_the_setting_is_changed(
    server: BackedUpServer, tmp_path: Path
) -> None:
    server.fill()
    whole = seen(server.home)
    await server.daemon.start_loaded(system=settings(server, "archive"))
    await server.made(OTHER)
    await server.daemon.kill()
    await server.daemon.start_loaded(system=settings(server))
    await server.made()
    await server.daemon.wait_for_line("is on the file system of system.data")
    assert len((await server.daemon.wingsctl("backups", "--json")).json["backups"]) == 2
    await deleted(server, PTERODACTYL, OTHER)
    await server.daemon.kill()
    await server.daemon.start_loaded(system=settings(server, "archive"))
    assert await downloaded(server, PTERODACTYL, tmp_path / "out") == whole
    await deleted(server, PTERODACTYL)
    assert names(server) == {}


@pytest.mark.parametrize(("family", "keeps"), [(PELICAN, False), (CALAGOPUS, True)])
async def test_a_deleted_server_leaves_its_backups_where_its_family_does_so(
    server: BackedUpServer, family: str, keeps: bool
) -> None:
    server.fill()
    await server.daemon.start_loaded(family=family, system=settings(server))
    await server.made()
    assert (await server.ask("DELETE", f"/api/servers/{UUID}"))[0] in (200, 204)
    directory = server.daemon.directory / "history" / UUID
    if not keeps:
        await until(lambda: not directory.exists())
        return
    assert [*names(server)] == [BACKUP]
    await deleted(server, family)
    await until(lambda: not directory.exists())


@pytest.mark.promise("backup-is-a-point")
async def test_a_history_that_may_not_grow_fails_a_backup_and_keeps_the_others(
    server: BackedUpServer,
) -> None:
    server.home.mkdir(parents=True)
    (server.home / "a").write_bytes(os.urandom(600_000))
    await server.daemon.start_loaded(system=settings(server, max_size=1), metrics=LOOPBACK)
    assert (await server.made())["successful"]
    failing = partial(troubled, server.daemon, "failing")
    assert await failing() == 0
    (server.home / "a").write_bytes(os.urandom(600_000))
    assert (await server.made(OTHER))["successful"] is False
    await server.daemon.wait_for_line("the points of 1 backups stay")
    assert [*names(server)] == [BACKUP]
    assert await failing() == 1
    assert server.daemon.lines_with("No point of the server's history could be made")
    await deleted(server, PTERODACTYL)
    assert (await server.made(OTHER))["successful"]
    assert [*names(server)] == [OTHER]
    assert await failing() == 0


@pytest.mark.promise("backup-is-a-point")
async def test_a_killed_node_reports_a_backup_that_is_there_and_no_other(
    server: BackedUpServer,
) -> None:
    server.fill()
    (server.home / "large").write_bytes(os.urandom(64 << 20))
    await server.daemon.start_loaded(system=settings(server))
    await server.begin()
    incoming = server.daemon.directory / "history" / UUID / "incoming"
    await until(lambda: incoming.exists() and [*incoming.iterdir()] != [])
    await server.daemon.kill()
    await server.daemon.start_loaded(system=settings(server))
    told = server.panel.backups.known[BACKUP].told
    assert told is not None, "before the restart is reported"
    assert told["successful"] is (BACKUP in names(server))
    assert (await server.made(OTHER))["successful"]
    assert OTHER in names(server)


async def restored(server: BackedUpServer, **request: Any) -> bool | None:
    """Have the backup restored; return what the Panel has heard of it."""
    server.daemon.node.address, server.daemon.node.reachable = server.daemon.url, True
    await server.panel.restore(UUID, BACKUP, **request)
    await until(lambda: server.panel.restored(UUID) is not None)
    return server.panel.restored(UUID)


@pytest.mark.promise("backup-is-a-point")
@pytest.mark.parametrize("family", [PELICAN, CALAGOPUS])
async def test_a_point_is_laid_over_the_present_files_or_replaces_them(
    server: BackedUpServer, family: str
) -> None:
    server.fill()
    (server.home / "ignored.log").write_text("of then")
    await server.daemon.start_loaded(family=family, system=settings(server))
    await server.made(ignore="*.log")
    then = {name: entry for name, entry in seen(server.home).items() if name != b"/ignored.log"}
    permissions = ("*", "meta.calagopus") if family == CALAGOPUS else ("*",)
    server.daemon.node.address, server.daemon.node.reachable = server.daemon.url, True
    browser = await browse(server.daemon, UUID, permissions)
    (server.home / "world/level.dat").write_bytes(b"griefed")
    shutil.rmtree(server.home / "world/region")
    (server.home / "ignored.log").write_text("of now")
    (server.home / "new").mkdir()
    (server.home / "new/plugin.jar").write_text("came later")
    assert await restored(server) is True
    now = seen(server.home)
    assert (server.home / "ignored.log").read_text() == "of now"
    assert (server.home / "new/plugin.jar").read_text() == "came later"
    for name in (b"/world/level.dat", b"/zz hard link", b"/world/region/r.0.0.mca"):
        assert now[name][2] == then[name][2]
    await browser.wait_for("backup restore completed")
    assert await restored(server, truncate_directory=True) is True
    found = seen(server.home)
    # The time of the root is that of the point, in which the log was.
    assert found.keys() == then.keys()
    del found[b""], then[b""]
    assert found == then
    shown_as = "console output" if family == PELICAN else "daemon message"

    def shows(text: str) -> bool:
        events = (each for each in browser.events if each.event == shown_as)
        return any(text in line for each in events for line in each.args)

    await until(lambda: shows("Completed server restoration from local backup."))
    expected = ("true",) if family == CALAGOPUS else ("",)
    await until(lambda: browser.count("backup restore completed") == 2)
    assert (await browser.wait_for("backup restore completed")).args == expected
    assert browser.count("backup restore started") == (2 if family == CALAGOPUS else 0)
    await browser.close()
    ran = await server.daemon.wingsctl("rewind", UUID, "--undo", "--yes")
    assert ran.status == 0, ran.err
    assert seen(server.home) == now


@pytest.mark.promise("backup-is-a-point")
async def test_a_restore_that_fails_changes_nothing_and_is_reported(
    server: BackedUpServer,
) -> None:
    server.fill()
    await server.daemon.start_loaded(system=settings(server))
    await server.made()
    tree = server.daemon.directory / "history" / UUID / "tree"
    (server.home / "world/level.dat").unlink()
    (server.home / "zz hard link").unlink()
    before = seen(server.home)
    (tree / "world/level.dat").write_bytes(os.urandom(300_000))
    assert await restored(server, truncate_directory=True) is False
    assert seen(server.home) == before
    await server.daemon.wait_for_line("The backup was not restored, and the server's files are as")
    files = sorted((server.daemon.directory / "history" / UUID).glob("names*"))
    for each in files:
        each.write_bytes(b"of a disk that decays")
    assert (await server.daemon.wingsctl("backups")).out == "no backups on this node\n"
    await server.daemon.wait_for_line(f"{UUID}: its backups are not listed: ")
    for each in files:
        each.unlink()
    path = f"/api/servers/{UUID}/backup/{BACKUP}/restore"
    status, answer = await server.ask("POST", path, {"adapter": "wings"})
    assert (status, answer["error"]) == (
        404,
        "The requested backup was not found on this server.",
    )
