"""A server's process in its container: its output, usage and end go to its watcher.

The connection to a console can break while the server runs, as when the engine is restarted with
`live-restore`. It is then made again; only an answer of the engine that the container is stopped
or gone counts as the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.docker import engine
from wingsd.docker.async_engine import AsyncEngine, EngineSession
from wingsd.docker.engine import ContainerState
from wingsd.docker.runtime import Watcher
from wingsd.docker.streams import ContainerStreams, Samples, Stream, usage
from wingsd.errors import EnvironmentFailed
from wingsd.util.retry import Backoff

__all__ = ["ContainerProcess"]

# Seconds between tries: an engine tells of a container's end some milliseconds after its console
# has ended, while one that is upgraded may be away for minutes.
BACKOFF = Backoff(0.1, 3.0, factor=1.5)
#: Seconds after which things count as well again.
STEADY = 30.0


@attrs.define
class _Pauses:
    """Pauses that grow as long as one follows another."""

    _reactor: IReactorTime
    _pauses: Iterator[float] = attrs.field(factory=lambda: iter(BACKOFF))
    _last: float = 0.0

    def pause(self) -> Deferred[None]:
        now = self._reactor.seconds()
        if now - self._last > STEADY:
            self._pauses = iter(BACKOFF)
        seconds = next(self._pauses)
        self._last = now + seconds
        return deferLater(self._reactor, seconds)


@attrs.define(eq=False)
class ContainerProcess:
    """The `Running` of a container. `start` or `join` it, then `follow`."""

    _log = Logger()

    _uuid: str
    #: The container's id: one of the same name may take its place.
    _container: str
    _watcher: Watcher
    _engine: AsyncEngine
    _streams: ContainerStreams
    _reactor: IReactorTime
    #: Whether the engine did not answer at some time since `follow`.
    was_lost: bool = attrs.field(default=False, init=False)
    _console: Stream | None = attrs.field(default=None, init=False)
    _watching: Deferred[None] | None = attrs.field(default=None, init=False)
    _measuring: Deferred[None] | None = attrs.field(default=None, init=False)

    async def attach(self) -> None:
        """Connect to the console: output from now on goes to the watcher.

        Raises `EnvironmentFailed`.
        """
        output = partial(self._notify, self._watcher.output)
        self._console = await self._streams.console(self._container, output)

    async def start(self, session: EngineSession) -> None:
        """Attach, and start the container; nothing is attached when that fails.

        Raises `EnvironmentFailed`.
        """
        await self.attach()
        try:
            await session.call(engine.start_container, self._container)
        except BaseException:
            self.detach()
            raise

    async def join(self, session: EngineSession) -> bool:
        """Attach to the process of a running container; return whether it still runs then.

        Raises `EnvironmentFailed`.
        """
        await self.attach()
        try:
            # An end before the attachment would not be noticed later.
            now = await session.call(engine.look, self._container)
        except BaseException:
            self.detach()
            raise
        if now is None or not now.running:
            self.detach()
            return False
        return True

    def follow(self) -> None:
        """Watch the process until its end. It must run, and be attached to."""
        self._measuring = self._go(self._measure)
        self._watching = self._go(self._watch)

    # Running

    async def command(self, line: str) -> None:
        """Type a line into the console; return when the server's terminal has read it."""
        typed = f"{line}\n".encode(errors="replace")
        async with self._engine.exclusive_session(f"console of {self._container}") as session:
            await self._engine.console_writers.run(
                session.call, engine.type_line, self._container, typed
            )

    async def signal(self, name: str) -> None:
        """Send a signal, by name, if the process has not ended."""
        async with self._engine.session() as session:
            await session.call(engine.send_signal, self._container, name)

    async def stop(self) -> None:
        """Send the stop signal that the image names, by default SIGTERM."""
        async with self._engine.session() as session:
            await session.call(engine.stop_container, self._container)

    async def kill(self) -> None:
        """Send SIGKILL."""
        await self.signal("SIGKILL")

    def detach(self) -> None:
        """End the connections; the watcher gets nothing more."""
        for task in (self._watching, self._measuring):
            if task is not None:
                task.cancel()
        self._close_console()

    # Watching

    def _go(self, work: Callable[[], Any]) -> Deferred[None]:
        def failed(failure: Failure) -> None:
            if not failure.check(CancelledError):
                self._log.failure("{server}: no longer watched", failure, server=self._uuid)

        return Deferred.fromCoroutine(work()).addErrback(failed)

    async def _watch(self) -> None:
        losses = _Pauses(self._reactor)
        state = None
        while self._console is not None:
            await self._console.over
            state = await self._resume(losses)
        if self._measuring is not None:
            self._measuring.cancel()
        status = state.exit_status if state else None
        out_of_memory = bool(state and state.out_of_memory)
        self._notify(partial(self._watcher.ended, out_of_memory=out_of_memory), status)

    async def _resume(self, losses: _Pauses) -> ContainerState | None:
        """Attach to the console again, unless the container has ended; return its state then."""
        self._console = None
        pauses = _Pauses(self._reactor)
        logged = False
        while True:
            try:
                state = await self._attach_again(losses)
            except EnvironmentFailed as error:
                self._close_console()
                self.was_lost = True
                if not logged:
                    self._log.warn(
                        "{server}: its console is disconnected: {error}",
                        server=self._uuid,
                        error=error,
                    )
                logged = True
                await pauses.pause()
                continue
            if logged:
                self._log.info("{server}: its console is connected again", server=self._uuid)
            return state

    async def _attach_again(self, losses: _Pauses) -> ContainerState | None:
        state = await self._look()
        if state is None or not state.running:
            return state
        # Short after a first loss: every line that is written meanwhile is lost.
        await losses.pause()
        await self.attach()
        # It may have ended meanwhile, and a console attached after that never ends.
        state = await self._look()
        if state is None or not state.running:
            self._close_console()
        return state

    async def _measure(self) -> None:
        pauses = _Pauses(self._reactor)
        while True:
            try:
                await self._measure_once()
            except EnvironmentFailed as error:
                self._log.debug("{server}: not measured: {error}", server=self._uuid, error=error)
            await pauses.pause()

    async def _measure_once(self) -> None:
        state = await self._look()
        if state is None or not state.running:
            return
        started, samples = state.started, Samples()

        def take(data: bytes) -> None:
            for sample in samples.feed(data):
                used = usage(sample, started)
                if used is not None:
                    self._notify(self._watcher.usage, used)

        stream = await self._streams.stats(self._container, take)
        try:
            await stream.over
        finally:
            stream.close()

    async def _look(self) -> ContainerState | None:
        async with self._engine.session() as session:
            return await session.call(engine.look, self._container)

    def _close_console(self) -> None:
        console, self._console = self._console, None
        if console is not None:
            console.close()

    def _notify(self, watcher: Callable[[Any], None], what: Any) -> None:
        # A failing watcher must still get the next piece.
        try:
            watcher(what)
        except Exception:
            self._log.failure(
                "{server}: an event of its container was not handled", server=self._uuid
            )
