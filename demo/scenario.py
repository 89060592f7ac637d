"""The steps of the demo: a game moves between nodes, keeps working, and is restored."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from demo import trees
from demo.breaking import BrokenLine
from demo.download import CurlDownload
from demo.game import Game, Landmark, name_told
from demo.node import OWNER, RunningNode
from demo.output import Failed, check, heading, line, mib
from demo.restoring import Restoring
from demo.sftp import SftpUpload
from demo.suggestions import print_suggestions
from demo.testbed import Testbed
from demo.upload import CurlUpload
from demo.watch import Watch, until
from tests.support import Hang, server_settings

__all__ = ["Scenario"]

SERVER = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6d"
UPLOADED = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6e"
SPARE = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6f"
_ACCEPTED = 202
_NO_CONTENT = 204


class Scenario:
    """The steps. `step` is the title of the current one."""

    def __init__(self, reactor: Any, game: Game) -> None:
        self.testbed = Testbed(reactor, game, [SERVER, UPLOADED, SPARE])
        self.step = ""
        self._reactor = reactor
        self._game = game
        self._panel = self.testbed.panel
        #: A copy of the server's files as they were before its first start.
        self._files = self.testbed.directory / "server"
        self._watch: Watch | None = None
        self._landmark: Landmark | None = None

    async def run(self, keep: bool) -> None:
        """Run and print all steps. Raises `Failed` at the first unexpected result."""
        a, b = self.testbed.a, self.testbed.b
        self._begin("Two nodes, one Panel, and a game")
        await self.testbed.start()
        self._begin("The game is installed on node A")
        await self._install(a)
        self._begin("The game on node A")
        await self._play(a)
        self._begin("The Panel moves it to node B, over a line that is cut; a browser's view")
        await self._move(a, b)
        self._begin("Nothing is left on node A")
        await self._verify_gone(a, b)
        self._begin("The same game on node B")
        await self._play(b)
        self._begin("The move back is cancelled halfway")
        await self._cancel(b, a)
        self._begin("The game continues where it was")
        await self._play(b)
        self._begin("A backup of the living game; its world is broken, and restored")
        await self._restore(b)
        self._begin("A user changes its settings by SFTP")
        await self._rename(b)
        self._begin("An upload with curl, as documented")
        await CurlUpload(self.testbed, UPLOADED, self._files, a).send()
        self._begin("A user downloads one of its files")
        await CurlDownload(self.testbed, UPLOADED, a).fetch()
        if keep:
            await self._leave()
            await print_suggestions(self.testbed, SERVER, SPARE, self._files)
            await Deferred()

    async def clean_up(self) -> None:
        """Remove everything that was created."""
        try:
            await self._leave()
        finally:
            await self.testbed.clean_up()

    def _begin(self, step: str) -> None:
        self.step = step
        heading(step)

    # The steps

    async def _install(self, node: RunningNode) -> None:
        """Have the Panel create the server: its egg's script puts the files into place."""
        game = self._game
        settings = server_settings(
            SERVER,
            image=f"~{game.image}",
            invocation=game.invocation,
            name="the moving game",
            port=node.game_port,
        )
        script = {"entrypoint": "/bin/sh", "script": game.script}
        await self._panel.create_server_on(node.node, settings, game.process, script=script)
        await self._open_page()
        await until(self._reactor, lambda: self._panel.installed(SERVER), "the installation")
        await self._leave()
        check("Panel", True, "got a report of success")
        place = node.files(SERVER)
        await deferToThread(trees.copy, place, self._files)
        summary = await deferToThread(trees.summarize, place)
        line("files", f"{summary.files} files, {mib(summary.size)}")

    async def _play(self, node: RunningNode) -> None:
        """Start the game, and check that its world is unchanged."""
        watch = await self._open_page()
        await self._panel.power(SERVER, "start")
        await watch.saw("status", "running")
        line("status", " -> ".join(watch.power_states()))
        await self._verify_landmark(watch)
        written = self._game.port_written(node.files(SERVER))
        check("its settings", written == node.game_port, f"the node has written port {written}")
        answer = await self._game.greet(self._reactor, watch, node.game_port)
        check("answer", answer, answer)

    async def _rename(self, node: RunningNode) -> None:
        """Upload settings with another name; the game has it after a restart."""
        assert self._watch is not None  # noqa: S101 - the game is played
        watch, name = self._watch, "A server with a new name"
        before = name_told(watch.console())
        await SftpUpload(self.testbed, SERVER, node).rename(name)
        await self._panel.power(SERVER, "restart")
        await watch.until(
            lambda: name_told(watch.console()) == name, "the new name in the console"
        )
        check("its name", before != name, f"was {before!r}, and is {name!r} after a restart")
        await watch.until(lambda: watch.power_states()[-1] == "running", "the restart")

    async def _verify_landmark(self, watch: Watch) -> None:
        before = self._landmark

        def look() -> Landmark | None:
            found = self._game.landmark(watch.console())
            # The page may still show that of an earlier start.
            return None if found is not None and before and found.start <= before.start else found

        self._landmark = now = await watch.until(look, "the world's own words in the console")
        if before is None:
            line("world", f"start {now.start}: {now.words}")
            return
        same = (now.start, now.words) == (before.start + 1, before.words)
        words = f"start {now.start}: {now.words}"
        check("world", same, f"{words}\nas before" if same else f"{words}\n{before} was before")

    async def _move(self, source: RunningNode, destination: RunningNode) -> None:
        """Transfer the server, and compare both copies while the success is being reported."""
        assert self._watch is not None  # noqa: S101 - the game is played
        success = Hang()
        self._panel.inject(f"{SERVER}/transfer/success", success)
        told = self._panel.called(f"{SERVER}/transfer/success", within=None)
        before = await deferToThread(trees.summarize, source.files(SERVER))
        broken = BrokenLine(SERVER, before.size, source, destination, self._watch)
        broken.cut_halfway()
        await self._panel.transfer(SERVER, destination.node)
        await self._watch.until(lambda: told.called or self._failed(), "the report of the success")
        copies = source.files(SERVER), destination.files(SERVER)
        found = await deferToThread(lambda: list(trees.differences(*copies, OWNER)))
        success.release()
        await self._watch.saw("transfer status", "completed")
        await self._leave()
        summary = await deferToThread(trees.summarize, copies[1])
        equal = (
            f"{summary.files} files, {summary.directories} directories, {summary.symlinks} "
            "symlinks: equal in\ncontent, mode, time and links, when node B reported its success"
        )
        check("files", not found, "\n".join(found[:10]) if found else equal)
        line("transfer", destination.speed(SERVER))
        broken.verify()

    def _failed(self) -> bool:
        """Return False. Raises `Failed` when the browser sees that the transfer has failed."""
        assert self._watch is not None  # noqa: S101 - the game is played
        if self._watch.has_seen("transfer status", "failed"):
            raise Failed("the transfer failed")
        return False

    async def _verify_gone(self, source: RunningNode, destination: RunningNode) -> None:
        await until(self._reactor, lambda: self._panel.deletions or None, "the Panel's deletion")
        deletions = self._panel.deletions
        check(
            "Panel",
            deletions == [(SERVER, _NO_CONTENT)],
            "during the call that reported the success, it had node A delete its copy:  "
            f"{deletions[0][1]}",
        )
        moved = self._panel.node_of(SERVER) is destination.node
        check("Panel says", moved, "the server is on node B" if moved else "it did not move")
        await until(
            self._reactor, lambda: not source.leftovers(SERVER), "the removal of node A's files"
        )
        check("files", True, "none")
        home = await deferToThread(self.testbed.engine.home, SERVER)
        check(
            "container",
            home == str(destination.files(SERVER)),
            f"the only one of that name, with its files in {home}",
        )

    async def _cancel(self, source: RunningNode, destination: RunningNode) -> None:
        assert self._watch is not None  # noqa: S101 - the game is played
        await self._panel.transfer(SERVER, destination.node)
        await self._watch.saw("transfer logs", "Uploading [")
        path = f"/api/servers/{SERVER}/transfer"
        status, _ = await self._panel.ask(source.node, "DELETE", path)
        check("cancel", status == _ACCEPTED, f"DELETE {path}: {status}")
        await self._watch.saw("transfer status", "failed")
        reactor, panel = self._reactor, self._panel
        await until(reactor, lambda: not panel.in_transfer(SERVER), "the report to the Panel")
        await self._leave()
        still = panel.node_of(SERVER) is source.node
        check("Panel says", still, "the server is on node B" if still else "it has moved")
        await until(
            reactor,
            lambda: not destination.leftovers(SERVER),
            "node A to remove received files",
        )
        check("on node A", True, "nothing")

    async def _restore(self, node: RunningNode) -> None:
        """Have the node restore a backup; it starts the game again, whose world is as before."""
        watch = self._watch
        assert watch is not None  # noqa: S101 - the game is played
        await Restoring(self._reactor, self._panel, SERVER, node, watch).run()
        await self._verify_landmark(watch)

    # The browser

    async def _open_page(self) -> Watch:
        await self._leave()
        self._watch = watch = Watch(self._reactor, self._panel, SERVER)
        await watch.open()
        return watch

    async def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.leave()
