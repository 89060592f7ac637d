"""Backups that are points of a history follow their server between real daemons."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.daemon.test_following_backups import deleted, made, place, restored
from tests.daemon.test_following_histories import arrived, home, third_node
from tests.daemon.test_following_histories import settings as with_history
from tests.daemon.test_histories import COUNTING
from tests.support.archives import Tree, seen
from tests.support.docker_engine import Engine
from tests.support.go import GoNode, restore_as_go
from tests.support.node_process import NodeProcess
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.tokens import signed_url_token
from tests.support.two_nodes import TwoNodes
from wingsd.backups.store import BackupStore
from wingsd.config import PELICAN, PTERODACTYL
from wingsd.history.names import read_names


def settings(
    node: NodeProcess, family: str = PTERODACTYL, *, every: Any = 0, **more: Any
) -> dict[str, Any]:
    """Return the settings of a node whose backups are points; by default it makes no others."""
    found = with_history(node, every=every, **more)
    found["system"]["backups"] = {"wings": {"kind": "history"}}
    return found | {"family": family}


def names(node: NodeProcess) -> set[str]:
    """Return the backups at a node that are points."""
    return set(read_names(str(home(node))))


async def backed_up(nodes: TwoNodes, node: NodeProcess, trees: dict[str, Tree]) -> str:
    """Change a server, and make a backup of it; note the tree that this has to have."""
    (node.files() / "level").write_bytes(hashlib.shake_128(b"%d" % len(trees)).digest(9000))
    backup = str(uuid4())
    nodes.panel.backups.add(backup, UUID)
    order = {"adapter": "wings", "uuid": backup, "ignore": ""}
    path = f"/api/servers/{UUID}/backup"
    while (await nodes.panel.ask(node.node, "POST", path, order))[0] != 202:
        pass  # while the end of a transfer is recorded
    await until(lambda: nodes.panel.backups.known[backup].is_over)
    trees[backup] = seen(node.files())
    return backup


async def download(nodes: TwoNodes, backup: str) -> tuple[int, bytes]:
    """Return how the node of the server answers a download that its Panel has signed."""
    node = next(
        each
        for each in (nodes.source, nodes.destination)
        if each.node is nodes.panel.node_of(UUID)
    )
    key, family = node.node.token, node.node.family
    token = signed_url_token(key, UUID, "backup-download", family, backup_uuid=backup)
    return await node.fetch(f"/download/backup?token={token}")


async def downloaded(nodes: TwoNodes, backup: str, into: Path) -> Tree:
    """Return what is in the archive that a user gets."""
    status, data = await download(nodes, backup)
    assert status == 200, data
    target = into / backup
    target.mkdir()
    command = ["tar", "-xzpf", "-", "-C", str(target)]
    subprocess.run(command, input=data, check=True, capture_output=True)
    return seen(target)


async def send_on(node: NodeProcess) -> None:
    """Have a node look now for what is to be sent."""
    while (await node.wingsctl("backups", "send", UUID)).status != 0:
        if not home(node).exists():
            return


async def gone(node: NodeProcess) -> None:
    """Return when the history has followed; a node asks again in a minute, or by an order."""
    while home(node).exists():
        await send_on(node)


@pytest.mark.promise("point-backups-follow")
async def test_backups_that_are_points_follow_their_server(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    nodes.add_server()
    a, b = nodes.source, nodes.destination
    await nodes.start(settings(a), settings(b))
    trees: dict[str, Tree] = {}
    first, second, third = [await backed_up(nodes, a, trees) for _ in range(3)]
    # The destination does not hear yet whether its Panel has records of them.
    question = nodes.panel.hold("?size=1")
    await nodes.transfer()
    await arrived(nodes, b, a)
    status, answer = await restored(nodes, first)
    while answer["code"] == "server-busy":  # type: ignore[index]
        status, answer = await restored(nodes, first)  # while the end of the transfer is recorded
    assert (status, answer["code"]) == (409, "backup-on-its-way")  # type: ignore[index]
    assert (await download(nodes, first))[0] == 409
    assert (await b.wingsctl("backups")).out.count("on its way here") == 3
    assert await deleted(nodes, third) == 204
    question.release()
    await gone(a)
    assert names(b) == {first, second}
    for backup in (first, second):
        assert await downloaded(nodes, backup, tmp_path) == trees[backup]
    assert (await a.wingsctl("backups")).out == "no backups on this node\n"
    (other,) = await made(nodes, b, 1)
    assert await deleted(nodes, second) == 204
    assert names(b) == {first, other}
    assert await deleted(nodes, third) == 404


@pytest.mark.promise("point-backups-follow")
async def test_a_backup_is_restored_where_its_server_runs_now(
    engine: Engine, nodes: TwoNodes
) -> None:
    nodes.add_server(image=engine.image, invocation=COUNTING)
    a, b, panel = nodes.source, nodes.destination, nodes.panel
    for path in (a.files(), *a.files().rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    docker = engine.for_node(UUID)
    await nodes.start(docker | settings(a), docker | settings(b))
    trees: dict[str, Tree] = {}
    backup = await backed_up(nodes, a, trees)
    (a.files() / "level").write_bytes(b"griefed")
    await nodes.transfer()
    await arrived(nodes, b, a)
    await gone(a)
    await panel.power(UUID, "start")
    await b.wait_for_line(f"{UUID}: running")
    await until((b.files() / "counter").exists)
    mark = len(b.log)
    await panel.restore(UUID, backup, truncate_directory=True)
    await until(lambda: panel.restored(UUID) is True)
    await b.wait_for_line(f"{UUID}: running", since=mark)
    found = regular(seen(b.files()))
    found.pop(b"/counter", None)
    assert found == regular(trees[backup])


@pytest.mark.promise("point-backups-follow")
async def test_a_backup_is_at_its_server_wherever_that_moves(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    """The server goes from A to B to C to A before anything has followed it."""
    nodes.add_server()
    a, b, panel = nodes.source, nodes.destination, nodes.panel
    await nodes.start(settings(a), settings(b))
    trees: dict[str, Tree] = {}
    async with third_node(nodes) as c:
        await c.kill()
        await c.start_loaded(**settings(c))
        await backed_up(nodes, a, trees)
        await backed_up(nodes, a, trees)
        question = panel.hold("?size=1")
        await nodes.transfer()
        await arrived(nodes, b, a)
        await backed_up(nodes, b, trees)
        await panel.transfer(UUID, c.node)
        await arrived(nodes, c, b)
        await backed_up(nodes, c, trees)
        await panel.transfer(UUID, a.node)
        await arrived(nodes, a, c)
        question.release()
        await gone(b)
        await gone(c)
        assert names(a) == {*trees}
        for backup, tree in trees.items():
            assert await downloaded(nodes, backup, tmp_path) == tree


@pytest.mark.promise("point-backups-follow")
async def test_backups_wait_for_a_node_without_histories(nodes: TwoNodes, tmp_path: Path) -> None:
    nodes.add_server()
    a, b = nodes.source, nodes.destination
    await nodes.start(settings(a), {"family": PTERODACTYL})
    trees: dict[str, Tree] = {}
    backup = await backed_up(nodes, a, trees)
    await nodes.transfer()
    await arrived(nodes, b, a)
    shown = ""
    while "it waits: " not in shown:
        shown = (await a.wingsctl("backups")).out
    assert "its server's node does not have its point of the history yet" in shown
    assert (await download(nodes, backup))[0] == 409
    refused = await a.wingsctl("backups", "delete", UUID)
    assert refused.status != 0
    assert "it has backups that have not followed the server" in refused.err
    await b.kill()
    await b.start_loaded(**settings(b))
    await gone(a)
    assert await downloaded(nodes, backup, tmp_path) == trees[backup]


@pytest.mark.promise("point-backups-follow")
async def test_backups_for_which_there_is_no_space_wait(nodes: TwoNodes, tmp_path: Path) -> None:
    nodes.add_server(size=3 << 20)
    a, b = nodes.source, nodes.destination
    await nodes.start(settings(a), settings(b, max_size=6))
    trees: dict[str, Tree] = {}
    for seed in range(3):
        (a.files() / "large").write_bytes(hashlib.shake_128(b"%d" % seed).digest(2 << 20))
        await backed_up(nodes, a, trees)
    (a.files() / "large").write_bytes(b"")
    await nodes.transfer()
    await arrived(nodes, b, a)
    while not any("are left out" in line for line in a.log):
        await send_on(a)
    history: dict[str, Any] = {"left": {"waits_for": ""}}
    while "backups that are points of it have not followed" not in history["left"]["waits_for"]:
        (history,) = (await a.wingsctl("history", "--json")).json["histories"]
    assert names(a) == {*trees}
    there = names(b)
    assert 0 < len(there) < len(trees)
    # One that is deleted where the server is has no name at the node that still has the history.
    gone_since = there.pop()
    assert await deleted(nodes, gone_since) == 204
    del trees[gone_since]
    while gone_since in names(a):
        await send_on(a)
    assert names(a) == {*trees}
    await b.kill()
    await b.start_loaded(**settings(b, max_size=60))
    await gone(a)
    assert names(b) == {*trees}
    for backup, tree in trees.items():
        assert await downloaded(nodes, backup, tmp_path) == tree


@pytest.mark.promise("point-backups-follow")
async def test_what_pelicans_page_names_follows_and_other_is_dropped(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    nodes.add_server()
    a, b = nodes.source, nodes.destination
    await nodes.start(settings(a, PELICAN), settings(b, PELICAN))
    trees: dict[str, Tree] = {}
    ticked, other = [await backed_up(nodes, a, trees) for _ in range(2)]
    del nodes.panel.backups.known[other]
    await nodes.transfer(backups=[ticked])
    await arrived(nodes, b, a)
    while names(b) != {ticked}:
        await send_on(a)
    assert await downloaded(nodes, ticked, tmp_path) == trees[ticked]
    listed = json.loads((await a.wingsctl("backups", "--json")).out)["backups"]
    assert [each["backup"] for each in listed if each["left"]["missed"]] == [other]


@pytest.mark.promise("backups-suit-the-destination")
async def test_a_go_node_gets_archives_that_are_made_on_the_way(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    nodes.add_server()
    a, go = nodes.source, GoNode(nodes.destination)
    try:
        await a.start_loaded(**settings(a, PELICAN))
        trees: dict[str, Tree] = {}
        ticked, other = [await backed_up(nodes, a, trees) for _ in range(2)]
        level, region = a.files() / "level", a.files() / "world" / "region.mca"
        content = {"level": level.read_bytes(), "world/region.mca": region.read_bytes()}
        level.write_bytes(b"griefed")
        await nodes.panel.transfer(UUID, go.node, backups=[other])
        await a.wait_for_line("state success")
        await a.wait_for_line("removed, it has moved")
    finally:
        await go.close()
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(go.backups[other])
    restore_as_go(archive, tmp_path / "restored")
    content["world/same.mca"] = content["world/region.mca"]
    found = {path: (tmp_path / "restored" / path).read_bytes() for path in content}
    assert found == content
    assert [*go.backups] == [other]
    assert [*(a.directory / "backups").rglob("*")] == []
    assert names(a) == {ticked}


@pytest.mark.promise("backups-suit-the-destination")
async def test_points_become_archives_that_wings_restores(nodes: TwoNodes, tmp_path: Path) -> None:
    """Also after a kill halfway: each backup is a point or an archive, and whole."""
    nodes.add_server()
    a = nodes.source
    slow = settings(a, PELICAN)
    slow["system"]["backups"]["write_limit"] = 1
    (a.files() / "large").write_bytes(hashlib.shake_128(b"large").digest(3 << 20))
    await a.start_loaded(**slow)
    trees: dict[str, Tree] = {}
    for _ in range(2):
        await backed_up(nodes, a, trees)
    backups, stored = a.directory / "backups", BackupStore(str(a.directory / "backups"), PELICAN)
    ended = a.wingsctl("backups", "for-wings", "--all")
    await until(lambda: [*backups.rglob(".*.part")] != [])
    await a.kill()
    assert (await ended).status == 3
    await a.start_loaded(**settings(a, PELICAN))
    assert [*backups.rglob("*.part")] == []
    assert names(a) | {each.uuid for each in stored.all()} == {*trees}
    again = await a.wingsctl("backups", "for-wings", "--all")
    assert again.out.strip().endswith("2 rewritten, 0 in this form already, 0 failed")
    assert names(a) == set()
    once_more = await a.wingsctl("backups", "for-wings", UUID)
    assert "0 rewritten, 2 in this form already, 0 failed" in once_more.out
    for backup, tree in trees.items():
        assert (await a.wingsctl("verify", backup)).status == 0
        archive = place(a, backup)
        made = stored.find(UUID, backup)
        assert made is not None
        assert made.catalogue is not None
        assert made.catalogue.checksum == hashlib.sha1(archive.read_bytes()).hexdigest()  # noqa: S324
        target = tmp_path / f"restored-{backup}"
        restore_as_go(archive, target)
        assert regular(seen(target)) == regular(tree)
        assert await deleted(nodes, backup) == 204
    assert stored.all() == []


def regular(tree: Tree) -> dict[bytes, bytes]:
    """Return the contents of the regular files of a tree."""
    return {path: each[2] for path, each in tree.items() if each[0].startswith("0o100")}


@pytest.mark.promise("point-backups-follow")
async def test_nodes_with_one_directory_of_histories_do_not_remove_it(
    nodes: TwoNodes, tmp_path: Path
) -> None:
    nodes.add_server()
    a, b = nodes.source, nodes.destination
    shared, other = settings(a), settings(b)
    other["system"]["history"]["directory"] = shared["system"]["history"]["directory"]
    await nodes.start(shared, other)
    trees: dict[str, Tree] = {}
    backup = await backed_up(nodes, a, trees)
    await nodes.transfer()
    await arrived(nodes, b, a)
    while not any("another node makes points in" in line for line in a.log):
        await send_on(a)
    assert await downloaded(nodes, backup, tmp_path) == trees[backup]
