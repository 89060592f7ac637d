"""The steps of the demo: a game moves between nodes, is restored, and is rewound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from demo import trees
from demo.breaking import BrokenLine
from demo.download import CurlDownload
from demo.game import Game, Landmark, name_told
from demo.moving import Departure, Move
from demo.node import RunningNode
from demo.output import check, heading, line, mib
from demo.pictures import MoveTimes
from demo.players import Player
from demo.restoring import Restoring
from demo.rewinding import Rewinding
from demo.sftp import SftpUpload
from demo.suggestions import print_suggestions
from demo.testbed import Testbed
from demo.upload import CurlUpload
from demo.watch import Watch, until
from tests.support import server_settings

__all__ = ["Scenario"]

SERVER = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6d"
UPLOADED = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6e"
SPARE = "5f3c2d6e-8a41-4b7f-9c0d-1e2f3a4b5c6f"
_NO_CONTENT = 204


class Scenario:
    """The steps. `step` is the title of the current one.

    `moved` gets the times of the first move when all of it has been checked.
    """

    def __init__(
        self, reactor: Any, game: Game, moved: Callable[[MoveTimes], None] = lambda _: None
    ) -> None:
        self.testbed = Testbed(reactor, game, [SERVER, UPLOADED, SPARE])
        self.step = ""
        self._reactor = reactor
        self._game = game
        self._moved = moved
        self._panel = self.testbed.panel
        #: A copy of the server's files as they were before its first start.
        self._files = self.testbed.directory / "server"
        self._watch: Watch | None = None
        self._landmark: Landmark | None = None
        #: How many moves have succeeded.
        self._moves = 0

    async def run(self, keep: bool) -> None:
        """Run and print all steps. Raises `Failed` at the first unexpected result."""
        a, b = self.testbed.a, self.testbed.b
        self._begin("Two nodes, one Panel, and a game")
        await self.testbed.start()
        self._begin("The game is installed on node A")
        await self._install(a)
        self._begin("The game on node A")
        await self._play(a)
        self._begin("The Panel moves it to node B while it runs; a browser's view")
        times = await self._move(a, b)
        self._begin("Node A keeps a copy for a day, and nothing else")
        await self._verify_gone(a, b)
        self._moved(times)
        self._begin("The Panel moves it back, over a line that is cut")
        await self._move_broken(b, a)
        await self._verify_gone(b, a)
        self._begin("A third move is cancelled halfway")
        await self._cancel(a, b)
        self._begin("A backup of the living game; its world is broken, and restored")
        await self._restore(a)
        self._begin("Its world is griefed, and rewound while a player waits")
        await self._rewind(a)
        self._begin("A user changes its settings by SFTP")
        await self._rename(a)
        self._begin("An upload with curl, as documented")
        await CurlUpload(self.testbed, UPLOADED, self._files, b).send()
        self._begin("A user downloads one of its files")
        await CurlDownload(self.testbed, UPLOADED, b).fetch()
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
        """Create the server in the Panel; its egg's script puts the files into place."""
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
        """Start the game, and verify it."""
        watch = await self._open_page()
        await self._panel.power(SERVER, "start")
        await self._verify_game(watch, node)

    async def _verify_game(self, watch: Watch, node: RunningNode) -> Landmark:
        """Check that the game runs on a node, and its world is as before; return what it told."""
        await watch.saw("status", "running")
        line("status", " -> ".join(watch.power_states()))
        found = await self._verify_landmark(watch)
        written = self._game.port_written(node.files(SERVER))
        check("its settings", written == node.game_port, f"the node has written port {written}")
        player = self._player(node)
        await player.join()
        player.leave()
        answer = await self._game.ask(self._reactor, node.game_port)
        check("answer", answer, answer)
        return found

    def _player(self, *nodes: RunningNode) -> Player:
        """Return a player who knows the game's addresses at these nodes."""
        reactor, game = self._reactor, self._game
        return Player(
            reactor, lambda port: game.ask(reactor, port), [node.game_port for node in nodes]
        )

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

    async def _verify_landmark(self, watch: Watch) -> Landmark:
        before = self._landmark

        def look() -> Landmark | None:
            found = self._game.landmark(watch.console())
            # The page may still show that of an earlier start.
            return None if found is not None and before and found.start <= before.start else found

        self._landmark = now = await watch.until(look, "the world's own words in the console")
        if before is None:
            line("world", f"start {now.start}: {now.words}")
            return now
        same = (now.start, now.words) == (before.start + 1, before.words)
        words = f"start {now.start}: {now.words}"
        check("world", same, f"{words}\nas before" if same else f"{words}\n{before} was before")
        return now

    async def _move(self, source: RunningNode, destination: RunningNode) -> MoveTimes:
        """Move the running game, with a player in it."""
        move = await self._begin_move(source, destination)
        departure = await move.run()
        await self._arrive(move, departure)
        return move.times(departure)

    async def _move_broken(self, source: RunningNode, destination: RunningNode) -> None:
        """Move it over a line that is cut, and compare both copies."""
        move = await self._begin_move(source, destination)
        size = (await deferToThread(trees.summarize, source.files(SERVER))).size
        broken = BrokenLine(SERVER, size, source, destination, move.watch)
        await self._arrive(move, await move.run_broken(broken))

    async def _begin_move(self, source: RunningNode, destination: RunningNode) -> Move:
        assert self._watch is not None  # noqa: S101 - the game is played
        player = self._player(source, destination)
        await player.join()
        return Move(self.testbed, SERVER, source, destination, self._watch, player)

    async def _arrive(self, move: Move, departure: Departure) -> None:
        """Check that the game runs at its new node, and what it has taken."""
        watch = await self._open_page()
        watch.ask_for_logs()
        await move.player.heard_again()
        move.tell(departure)
        found = await self._verify_game(watch, move.destination)
        text = f"{departure.changes} when it was stopped, {found.changes} when it was started"
        check("changes", found.changes == departure.changes, text)

    async def _verify_gone(self, source: RunningNode, destination: RunningNode) -> None:
        """Check that the source has nothing left but what is kept for a while."""
        self._moves += 1
        deletions = await until(
            self._reactor,
            lambda: found if len(found := self._panel.deletions) == self._moves else None,
            "the Panel's deletion",
        )
        check(
            "Panel",
            deletions[-1] == (SERVER, _NO_CONTENT),
            "during the call that reported the success, it had node "
            f"{source.name} delete its copy:  {deletions[-1][1]}",
        )
        moved = self._panel.node_of(SERVER) is destination.node
        place = f"the server is on node {destination.name}"
        check("Panel says", moved, place if moved else "it did not move")
        await until(
            self._reactor,
            lambda: not source.leftovers(SERVER),
            f"the removal of node {source.name}'s files",
        )
        kept = source.kept(SERVER)
        check("files", len(kept) == 1, f"none in place; until tomorrow in\n{kept[0]}")
        home = await deferToThread(self.testbed.engine.home, SERVER)
        check(
            "container",
            home == str(destination.files(SERVER)),
            f"the only one of that name, with its files in {home}",
        )

    async def _cancel(self, source: RunningNode, destination: RunningNode) -> None:
        """Cancel a move: the game runs on."""
        move = await self._begin_move(source, destination)
        await move.cancel()
        await self._open_page()
        still = self._panel.node_of(SERVER) is source.node
        here, there = f"on node {source.name}", f"on node {destination.name}"
        check("Panel says", still, f"the server is {here}" if still else "it has moved")
        await until(
            self._reactor,
            lambda: not destination.leftovers(SERVER),
            f"node {destination.name} to remove received files",
        )
        check(there, True, "nothing new")

    async def _restore(self, node: RunningNode) -> None:
        """Restore a backup; the node starts the game again, and its world is as before."""
        watch = self._watch
        assert watch is not None  # noqa: S101 - the game is played
        await Restoring(self._reactor, self._panel, SERVER, node, watch, self._game.treasure).run()
        await self._verify_landmark(watch)

    async def _rewind(self, node: RunningNode) -> None:
        """Rewind it to a point of its history; the world is as before."""
        watch, player = self._watch, self._player(node)
        assert watch is not None  # noqa: S101 - the game is played
        await player.join()
        treasure = self._game.treasure
        await Rewinding(self._panel, SERVER, node, watch, player, treasure).run()
        player.leave()
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
