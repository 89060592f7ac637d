"""The demo's course, from top to bottom; `python -m demo [--keep]`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from demo import node, tree
from demo.engine import IMAGE, NETWORK, Engine
from demo.process import Process
from demo.show import Failed, check, heading, line, mib
from wingsd.testing import Panel, server_settings

CACHE = Path(__file__).parent.parent / ".cache"
SERVER = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6d"
SECOND = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6e"
_STATUS_LINE = r"HTTP/%{http_version} %{http_code}\n"
#: Lines of the node's log that are shown when something went wrong.
LOG_LINES = 25


class Demo:
    """What the steps of the demo have in common."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._directory = CACHE / "demo"
        self._tree = self._directory / "server"
        self._archive = self._directory / "server-archive.tar.gz"
        self._checksum = ""
        self._engine: Engine | None = None
        self._panel = Panel()
        self._running = node.RunningNode(reactor, self._directory, node.free_port())
        self._source = self._panel.add_node("https://source.invalid:8080")
        self._destination = self._panel.add_node(self._running.url, port=node.free_port())

    async def run(self, keep: bool) -> None:
        """Do and show it all. Raises `Failed` at the first thing that is off."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        heading("A server, its Panel, and the node it travels to")
        await self._prepare_server()
        await self._start()
        heading("The upload, as the document has it")
        await self._upload()
        heading("What happened")
        await self._verify()
        if keep:
            await self._wait()

    async def _prepare_server(self) -> None:
        await deferToThread(tree.make_server, CACHE / "packages", self._tree)
        await deferToThread(tree.pack, self._tree, self._archive)
        self._checksum = tree.sha256(self._archive)
        summary = tree.summarize(self._tree)
        line(
            "server",
            f"{tree.PACKAGES[0]}, its game and {len(tree.PACKAGES) - 3} mods: "
            f"{summary.files} files, {mib(summary.size)}",
        )
        line("archive", f"{self._archive.name}, {mib(self._archive.stat().st_size)}")

    async def _start(self) -> None:
        self._engine = engine = await deferToThread(Engine)
        await deferToThread(engine.make_image)
        line("engine", f"Docker {engine.version}, image {IMAGE}")
        line("Panel", await self._panel.listen(self._reactor))
        for server in (SERVER, SECOND):
            settings = server_settings(
                server, image=f"~{IMAGE}", invocation="ls -l", name="luanti"
            )
            self._panel.add_server(settings, self._source)
            self._panel.open_transfer(server, self._destination)
        self._running.configure(self._destination, self._panel.url)
        pid = await self._running.start()
        line("node", f"{self._running.url} (twistd -n wingsd --config config.yml, process {pid})")

    def _curl(self, token: str, directory: str = "") -> list[str]:
        return [
            *("curl", "-X", "POST", f"{self._running.url}/api/transfers"),
            *("-H", f"Authorization: Bearer {token}"),
            *("-F", f"archive=@{directory}{self._archive.name}"),
            *("-F", f"checksum={self._checksum}"),
            *("--cacert", f"{directory}{self._running.authority.name}"),
        ]

    async def _upload(self) -> None:
        token = self._panel.transfer_token(SERVER, self._destination)
        print(_shown(self._curl("$JWT_TOKEN")), flush=True)
        shown = [
            "--progress-bar",
            "--fail-with-body",
            "-w",
            r"HTTP/%{http_version} %{http_code}\n",
        ]
        command = [shutil.which("curl") or "curl", *self._curl(token)[1:], *shown]
        status = await Process(self._reactor, command, self._directory).ended
        if status:
            raise Failed(f"curl ended with the status {status}")

    async def _verify(self) -> None:
        log = self._running.log
        states = node.states(log, SERVER)
        check("states", states == ["pending", "processing", "success"], " -> ".join(states))
        line("transfer", node.speed(log, SERVER))
        await self._verify_files()
        await self._verify_container()
        told = [f"{call.method} {call.path}" for call in self._panel.calls]
        check("Panel heard", self._panel.reports() == [(SERVER, "success")], "\n".join(told))
        moved = self._panel.node_of(SERVER) == self._destination
        check("Panel says", moved, "the server is on this node" if moved else "it did not move")

    async def _verify_files(self) -> None:
        received = self._running.volumes / SERVER
        found = await deferToThread(
            lambda: list(tree.differences(self._tree, received, node.OWNER))
        )
        summary = tree.summarize(received)
        text = (
            f"{summary.files} files, {summary.directories} directories, {summary.symlinks} "
            "symlinks: equal to what was\npacked in content, mode, time and links"
        )
        check("files", not found, "\n".join(found[:10]) if found else text)

    async def _verify_container(self) -> None:
        assert self._engine is not None  # noqa: S101 - _start has made it
        found = await deferToThread(self._engine.inspect, SERVER)
        host, mount = found["HostConfig"], found["Mounts"][0]
        right = (
            found["Config"]["Image"] == IMAGE
            and mount["Source"] == str(self._running.volumes / SERVER)
            and NETWORK in found["NetworkSettings"]["Networks"]
        )
        text = (
            f"{found['Name'][1:]}, {found['State']['Status']}\n"
            f"image {found['Config']['Image']}, user {found['Config']['User']}, "
            f"memory {mib(host['Memory'])}, network {host['NetworkMode']}\n"
            f"{mount['Destination']} is {Path(mount['Source']).relative_to(CACHE.parent)}"
        )
        check("container", right, text)

    async def _wait(self) -> None:
        heading("It is left running; Ctrl-C ends it and removes everything. To send another one:")
        token = self._panel.transfer_token(SECOND, self._destination)
        print(_shown(self._curl(token, f"{self._directory}/")))
        print()
        line("files", str(self._running.volumes))
        line("config", str(self._running.config))
        line("log", str(self._running.log_file))
        line("token", "good for 15 minutes, and for one success")
        await Deferred()

    async def clean_up(self) -> None:
        """Remove everything that was made."""
        try:
            await self._running.stop()
        finally:
            await self._panel.close()
            if self._engine is not None:
                await deferToThread(self._engine.clean_up, [SERVER, SECOND])
            shutil.rmtree(self._directory, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the end of the node's log."""
        return "\n".join(self._running.log.splitlines()[-LOG_LINES:])


def _shown(command: list[str]) -> str:
    """Return a curl command as a person would type it."""
    words = [f'"{word}"' if " " in word or "=" in word else word for word in command]
    lines = [" ".join(words[:4]), *(" ".join(words[i : i + 2]) for i in range(4, len(words), 2))]
    return "  " + " \\\n    ".join(lines) + "\n"


async def _show(demo: Demo, reactor: Any, keep: bool) -> None:
    running = Deferred.fromCoroutine(demo.run(keep))
    for number in (signal.SIGINT, signal.SIGTERM):
        # Once the reactor runs, it has put its own handlers there.
        reactor.callWhenRunning(
            signal.signal, number, lambda *_: reactor.callFromThread(running.cancel)
        )
    try:
        await running
    except CancelledError:
        if not keep:
            raise Failed("it was stopped") from None
    except Failed:
        print(f"\n{demo.log_tail()}", file=sys.stderr)
        raise
    finally:
        await demo.clean_up()


async def _course(reactor: Any, keep: bool) -> None:
    try:
        await _show(Demo(reactor), reactor, keep)
    except Failed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    heading("All as it should be, and everything is removed again.")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    keep = parser.parse_args().keep
    react(lambda reactor: Deferred.fromCoroutine(_course(reactor, keep)))


main()
