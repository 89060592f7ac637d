"""A disk that stands still: work that waits for it does not keep others from what is short."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from tests.daemon.backed_up_server import BackedUpServer
from tests.daemon.test_sftp import UUID, started
from tests.support import process_configuration, server_settings
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import archive, sha256

#: Servers that wait for the disk: as many as there are threads for short work on it.
OTHERS = [str(uuid.UUID(int=number, version=4)) for number in range(4)]


class SlowDisk:
    """The disk of a daemon, which stands still on demand."""

    def __init__(self, directory: Path) -> None:
        self._still, self._waiting = directory / "still", directory / "waiting"
        program = Path(__file__).with_name("slow_disk.py")
        #: The words of a command that runs the daemon.
        self.wrapper = (sys.executable, *map(str, (program, self._still, self._waiting)))

    def stand_still(self, call: str) -> None:
        """Block each further system call of that name."""
        self._waiting.touch()
        self._still.write_text(call)

    def go_on(self) -> None:
        self._still.unlink(missing_ok=True)

    async def waits(self, times: int) -> None:
        """Return when `times` blocked calls wait."""
        await until(lambda: len(self._waiting.read_text().split()) >= times)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SlowDisk]:
    made = SlowDisk(tmp_path)
    yield made
    made.go_on()


async def send(daemon: ReceivingNode, server: str, data: Path) -> tuple[int, Any]:
    checksum = sha256(data.read_bytes())
    form = ("-F", f"archive=@{data}", "-F", f"checksum={checksum}")
    return await daemon.curl(*form, token=daemon.token(server))


async def change(
    daemon: ReceivingNode, server: str, call: str, body: Any, method: str = "POST"
) -> tuple[int, Any]:
    words = ("-X", method, "-H", "Content-Type: application/json", "-d", json.dumps(body))
    path = f"/api/servers/{server}/files/{call}"
    return await daemon.curl(*words, token=daemon.node.token, path=path)


@pytest.mark.promise("transfers-stall-no-others")
async def test_servers_that_are_flushed_to_a_slow_disk_do_not_stall_others(
    daemon: ReceivingNode, disk: SlowDisk, tmp_path: Path
) -> None:
    server = BackedUpServer(daemon)
    for other in OTHERS:
        daemon.expect(other)
    client = await started(daemon, tmp_path, wrapper=disk.wrapper)
    (server.home / "a").write_text("a")
    (tmp_path / "archive").write_bytes(archive())
    disk.stand_still("syncfs")
    receiving = gatherResults(
        [ensureDeferred(send(daemon, other, tmp_path / "archive")) for other in OTHERS]
    )
    # One flush is for all of them; each waits in a thread of its own.
    await disk.waits(1)
    staged = daemon.volumes.with_name(f".{daemon.volumes.name}.staging")
    await until(lambda: {path.name for path in staged.iterdir()} >= set(OTHERS))
    status, output = await client.run("rename /a /b")
    assert status == 0, output
    renamed = {"root": "/", "files": [{"from": "b", "to": "c"}]}
    assert await change(daemon, UUID, "rename", renamed, "PUT") == (204, None)
    assert (server.home / "c").read_text() == "a"
    assert (await server.made())["successful"]
    assert not receiving.called
    disk.go_on()
    assert await receiving == [(200, None)] * len(OTHERS)


@pytest.mark.promise("transfers-stall-no-others")
async def test_deletions_on_a_slow_disk_do_not_stall_the_renames_of_others(
    daemon: ReceivingNode, disk: SlowDisk
) -> None:
    for server in (UUID, *OTHERS):
        daemon.panel.add_server(server_settings(server), daemon.node, process_configuration())
        for name in ("one", "two"):
            (daemon.volumes / server / name).mkdir(parents=True)
    await daemon.start(*disk.wrapper)
    await daemon.loaded()
    disk.stand_still("rmdir")
    deleting: list[Deferred[tuple[int, Any]]] = [
        ensureDeferred(change(daemon, other, "delete", {"root": "/", "files": [name]}))
        for other in OTHERS
        for name in ("one", "two")
    ]
    await disk.waits(len(deleting))
    renamed = {"root": "/", "files": [{"from": "one", "to": "three"}]}
    assert await change(daemon, UUID, "rename", renamed, "PUT") == (204, None)
    assert (daemon.volumes / UUID / "three").is_dir()
    disk.go_on()
    await gatherResults(deleting)
    await until(lambda: not any((daemon.volumes / other / "one").exists() for other in OTHERS))
