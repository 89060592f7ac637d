"""Downloads from a URL into the files of servers: begun, listed, cancelled, and ended.

The file is written beside its name and gets it when it is whole; of one that fails or is cancelled
nothing is left. A server's deletion, installation, transfer and suspension cancel its downloads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from wingsd.errors import DownloadFailed, FilesBusy, PathInvalid, TooManyPulls
from wingsd.events import SUSPENDED, Event, EventBus
from wingsd.files.denylist import Denylist
from wingsd.files.guard import Guard
from wingsd.files.tasks import FileTask, FileTasks, FileWork
from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import NewFile, NewFileOptions
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.http_client.download import BodyBlocks, FetchLimits, GuardedClient, GuardedExchange
from wingsd.http_client.urls import WebUrl, disposition_name, plain_name
from wingsd.servers.operations import Operation
from wingsd.servers.server import Server
from wingsd.util.deferreds import when_fired
from wingsd.util.text import escaped

T = TypeVar("T")
#: Downloads of all servers at a time: each takes two descriptors and up to 1 MiB.
_ON_NODE = 100


@attrs.frozen
class PullTarget:
    """The place of a downloaded file: `directory`, and `name`, or the URL's name if that is empty.

    With `use_header` the name that the other server gives comes first. `ignored` are denied as the
    egg's denylist is.
    """

    directory: ServerPath
    name: str = ""
    use_header: bool = False
    ignored: Sequence[str] = ()

    def path(self, url: WebUrl, disposition: str) -> ServerPath:
        """Return the path of the file. Raises `PathInvalid`."""
        given = disposition_name(disposition) if self.use_header else ""
        name = given or self.name or plain_name(url.last_segment)
        path = self.directory.joined(name)
        if path.contains(self.directory):
            raise PathInvalid("the file has no name.", "give a file name: the URL ends in none")
        return path


@attrs.define(eq=False, repr=False)
class Pull(FileTask[Entry]):
    """One download. Its `progress` has the path once that is known."""

    _awaited: Deferred[Any] | None = attrs.field(default=None, init=False)

    def cancel(self) -> None:
        """End it soon."""
        self.progress.cancel()
        if self._awaited is not None:
            self._awaited.cancel()

    async def wait_for(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Return the result of what `begin` starts, and `cancel` ends.

        Raises `FileWorkCancelled`.
        """
        self.progress.check()

        async def work() -> T:
            return await begin()

        self._awaited = Deferred.fromCoroutine(work())
        try:
            result: T = await self._awaited
        except CancelledError:
            self.progress.check()
            raise
        finally:
            self._awaited = None
        return result


@attrs.frozen(eq=False, repr=False)
class Pulls:
    """The downloads of all servers, `per_server` of each at a time. `now` is Unix time."""

    _work: FileWork
    _tasks: FileTasks
    _bus: EventBus
    _client: GuardedClient
    _now: Callable[[], float]
    _per_server: int = 3
    _limits: FetchLimits = attrs.field(factory=FetchLimits)
    _pulls: dict[str, Pull] = attrs.field(factory=dict, init=False)
    #: How many requests of each server are under way, those for a description included.
    _requests: Counter[str] = attrs.field(factory=Counter, init=False)

    def start(self, server: Server, text: str, target: PullTarget, *, detached: bool) -> Pull:
        """Begin a download from the URL `text`; the console tells the end of one that is detached.

        Raises `UrlInvalid`, `PathInvalid` where its name is known to be none, `ServerBusy`,
        `TooManyPulls` and `FilesBusy`.
        """
        url = WebUrl.parse(text)
        if not target.use_header:
            target.path(url, "")
        server.operations.check(Operation.CHANGE_FILES)
        self._check_count(server)
        name = escaped(target.name or plain_name(url.last_segment))
        title = f"Downloading {name} from {url.host}"
        pull = Pull(server, title, None, self._now(), detached)
        self._pulls[pull.identifier] = pull
        Deferred.fromCoroutine(self._run(pull, text, target))
        return pull

    def of(self, server: str) -> list[Pull]:
        """Return those of a server that are under way."""
        return [pull for pull in self._pulls.values() if pull.server.uuid == server]

    def cancel(self, server: str, identifier: str) -> None:
        """Cancel a download of a server, if there is one of that identifier."""
        pull = self._pulls.get(identifier)
        if pull is not None and pull.server.uuid == server:
            pull.cancel()

    async def describe(self, server: Server, text: str) -> GuardedExchange:
        """Return the answer to a request whose body is not read; it is closed.

        Raises what `GuardedClient.get` does, `DownloadFailed`, `TooManyPulls` and `FilesBusy`.
        """
        self._check_count(server)
        with self._counted(server):
            answer = await self._client.get(text, self._limits)
            answer.close()
        _check_status(answer)
        return answer

    async def stop(self) -> None:
        """Cancel all, and return when nothing is left of them."""
        over = [when_fired(pull.over) for pull in self._pulls.values()]
        for pull in tuple(self._pulls.values()):
            pull.cancel()
        await DeferredList(over)

    def _check_count(self, server: Server) -> None:
        if self._requests[server.uuid] >= self._per_server:
            raise TooManyPulls(self._per_server)
        if self._requests.total() >= _ON_NODE:
            raise FilesBusy

    @contextmanager
    def _counted(self, server: Server) -> Iterator[None]:
        self._requests[server.uuid] += 1
        try:
            yield
        finally:
            self._requests[server.uuid] -= 1
            if not self._requests[server.uuid]:
                del self._requests[server.uuid]

    async def _run(self, pull: Pull, url: str, target: PullTarget) -> None:
        server = pull.server

        def note(event: Event) -> None:
            if event.name == SUSPENDED:
                pull.cancel()

        unsubscribe = self._bus.subscribe(server.uuid, note)
        try:
            with (
                self._counted(server),
                server.operations.during(Operation.CHANGE_FILES, pull.cancel),
            ):
                pull.value = await self._pull(pull, url, target)
        except Exception:
            pull.failure = Failure()
        finally:
            unsubscribe()
            del self._pulls[pull.identifier]
            self._tasks.tell_end(pull)
            pull.over.callback(None)

    async def _pull(self, pull: Pull, url: str, target: PullTarget) -> Entry:
        answer = await pull.wait_for(lambda: self._client.get(url, self._limits))
        try:
            _check_status(answer)
            if not answer.length:
                raise DownloadFailed(
                    "it does not tell the length of the file"
                    if answer.length is None
                    else "the file is empty"
                )
            path = target.path(WebUrl.parse(url), answer.header("content-disposition"))
            pull.progress.target = path
            pull.progress.bytes_total = answer.length
            file = await self._begun(pull.server, path, answer.length, target.ignored)
            run = self._work.writes.workers.run
            try:
                blocks = BodyBlocks(answer)
                # What writes is not cancelled: the file is closed when no thread uses it any more.
                while block := await pull.wait_for(blocks.next):
                    await run(file.write, block)
                    pull.progress.bytes_done += len(block)
                pull.progress.check()
                return Entry.of(path.name, await run(file.commit))
            finally:
                await run(file.close)
        finally:
            answer.close()

    async def _begun(
        self, server: Server, path: ServerPath, size: int, ignored: Sequence[str]
    ) -> NewFile:
        """Return the file, whose size counts from now on. Raises what `new_file` does."""
        denylists = (self._work.denylist(server), Denylist(ignored))

        def begin(root: ServerRoot) -> NewFile:
            Guard(root, *denylists).check(path)
            root.check_disk(size)
            return root.new_file(path, NewFileOptions(size=size))

        return await self._work.short.run(server, begin, writes=True)


def _check_status(answer: GuardedExchange) -> None:
    if answer.status != HTTPStatus.OK:
        raise DownloadFailed(f"the other server answers with status {answer.status}")
