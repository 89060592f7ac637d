"""Work that is under way when the daemon is stopped and another one is started."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from clients import PASSWORD, WORLD, SftpClient, made, restored
from machine import STAGING, VOLUMES, Failed, Machine, check
from twisted.internet.defer import ensureDeferred

from tests.support import Hang, server_settings
from tests.support.node_process import NodeProcess

__all__ = [
    "while_a_server_arrives",
    "while_a_server_is_moved",
    "while_a_user_downloads",
    "while_the_panel_hears_of_it",
]

Interruption = Callable[[], Awaitable[Any]]


async def while_a_server_arrives(machine: Machine, interruption: Interruption) -> None:
    """It fails cleanly, the Panel is told once, and the next attempt goes well."""
    uuid = machine.new_server()
    sending = ensureDeferred(machine.send(uuid, "--limit-rate", "100k"))
    await machine.until(lambda: machine.arriving(uuid), "the server to arrive")
    await interruption()
    status, body = await sending
    check("who sent it knows that it failed", status != 200, (status, body))  # noqa: PLR2004
    await machine.until(lambda: machine.reports(uuid), "the Panel to be told")
    check("so does the Panel", machine.reports(uuid) == ["failure"], machine.reports(uuid))
    machine.check_nothing_of(uuid)
    machine.panel.open_transfer(uuid, machine.node)
    answer = await machine.send(uuid)
    check("sent once more it arrives", answer == (200, ""), answer)
    machine.check_files(uuid)


async def while_the_panel_hears_of_it(machine: Machine, interruption: Interruption) -> None:
    """The server is here, and the next daemon tells the Panel."""
    uuid = machine.new_server()
    success = f"{uuid}/transfer/success"
    deaf = Hang()
    machine.panel.inject(success, deaf)
    told, told_again = machine.panel.called(success), machine.panel.called(success, 2)
    sending = ensureDeferred(machine.send(uuid))
    await machine.within(told, "the success to be told")
    await interruption()
    await sending
    await machine.within(told_again, "the success to be told by the next daemon")
    await machine.until(lambda: not machine.panel.in_transfer(uuid), "the Panel to hear of it")
    deaf.release()
    check("the Panel heard it from the next daemon", machine.panel.node_of(uuid) is machine.node)
    machine.check_files(uuid)


async def while_a_user_downloads(machine: Machine, interruption: Interruption) -> None:
    """The session ends, the next one goes on with the file; server and backup are there."""
    uuid = machine.new_server()
    answer = await machine.send(uuid)
    check("a server is received", answer == (200, ""), answer)
    backup, _ = await made(machine, uuid, "wings")
    with TemporaryDirectory() as directory:
        client = SftpClient(machine, uuid, Path(directory))
        copy = Path(directory) / "copy"
        await client.add_user()
        slow = client.run(f"get {WORLD} {copy}", password=PASSWORD, rate=1000)
        downloading = ensureDeferred(slow).addErrback(lambda failure: failure.trap(Failed))
        await machine.until(lambda: copy.exists() and copy.stat().st_size, "the download")
        await interruption()
        check("the session ends", await downloading is Failed)
        size, world = copy.stat().st_size, machine.content[WORLD]
        check("it was in the middle of the file", size < len(world), size)
        await client.run(f"reget {WORLD} {copy}")
        check("the next one goes on with it", copy.read_bytes() == world)
    machine.check_files(uuid)
    check("the backup is restored", await restored(machine, uuid, backup))
    machine.check_files(uuid)


async def while_a_server_is_moved(machine: Machine, interruption: Interruption) -> None:
    """A move to this node from a second one, of the source's code, goes on where it was."""
    uuid = str(uuid4())
    content = {f"{n}.mca": hashlib.shake_128(b"%d" % n).digest(1 << 20) for n in range(24)}
    with TemporaryDirectory() as directory:
        source = NodeProcess(Path(directory) / "source", machine.panel, proxied=True)
        source.ca.write_bytes(source.ca.read_bytes() + machine.ca.read_bytes())
        source.python = sys.executable
        source.variables["PYTHONPATH"] = str(Path(__file__).parents[2])
        # MiB a second.
        source.transfers["upload_limit"] = 1
        files = source.volumes / uuid
        files.mkdir(parents=True)
        for name, data in content.items():
            (files / name).write_bytes(data)
        machine.panel.add_server(server_settings(uuid), source.node)
        await source.start_loaded()
        try:
            await machine.panel.transfer(uuid, machine.node)
            await machine.until(lambda: arrived(uuid) > 2 << 20, "some MiB of the server")
            await interruption()
            await machine.until(lambda: machine.reports(uuid), "the end of the move")
            paths = [call.path for call in machine.panel.calls]
            since = paths[max(n for n, path in enumerate(paths) if path.endswith("/reset")) :]
            ended = any(f"{uuid}/transfer/" in path for path in since)
            check("it was under way when the daemon was started again", ended, paths)
            check("it is a success", machine.reports(uuid) == ["success"], machine.reports(uuid))
        except BaseException:
            print("\n".join(source.log), file=sys.stderr)
            raise
        finally:
            await source.close()
    found = {path.name: path.read_bytes() for path in (VOLUMES / uuid).iterdir()}
    check("the server is whole", found == content, sorted(found))


def arrived(uuid: str) -> int:
    """Return how many bytes of a server have arrived that is not in its place."""
    sizes = (path.stat().st_size for path in STAGING.rglob("*.mca") if uuid in str(path))
    return sum(sizes)
