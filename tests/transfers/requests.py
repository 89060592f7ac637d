"""Requests that bring one server, on their way to a node, and what their senders are answered."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from tests.support.reactor import reactor
from tests.support.receiver import Receiver, Source
from tests.support.sample_server import UUID
from wingsd.auth.tokens import TransferToken
from wingsd.config import StreamsConfig
from wingsd.errors import WingsdError
from wingsd.threadio import Feed
from wingsd.transfers.incoming.uploads import StreamGroups


def archive(name: str, data: bytes = b"data") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(data), 1_700_000_000
        tar.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue())


class Stream(Source):
    """One of the requests, and what its sender was answered: None for success."""

    def __init__(self, name: str, **how: Any) -> None:
        super().__init__(archive(f"world/{name}"), **how)
        self.answers: list[WingsdError | None] = []
        self.read = False

    def deliver(self, consumer: Feed) -> None:
        self.read = not self.stopped
        super().deliver(consumer)

    @property
    def answer(self) -> WingsdError | None:
        (answer,) = self.answers
        return answer


class Held(Stream):
    """One whose body does not come before `go_on`; the thread waits for it."""

    def complete(self) -> None:
        """Send no more for now."""

    def go_on(self) -> None:
        super().complete()


class UploadRequests:
    """The requests of one token, on their way to a node."""

    def __init__(self, receiver: Receiver, most: int = 16) -> None:
        self.receiver = receiver
        #: Of which one server has two.
        self.receiver.slots.limit = 4
        self.receiver.slots.most = 2
        self.clock = Clock()
        self.token = TransferToken(UUID, "digest", reactor.seconds() + 1000)
        self.groups = StreamGroups(
            receiver.transfers, receiver.database, StreamsConfig(most=most, within=60), self.clock
        )

    def first(self, stream: Stream, count: str = "") -> Deferred[None]:
        return self._come(stream, lambda group: group.open(count, stream))

    def further(self, stream: Stream, number: str, count: str = "") -> Deferred[None]:
        return self._come(stream, lambda group: group.join(number, count, stream))

    def bring(self, first: Stream, *others: Stream) -> Deferred[Any]:
        """Have all requests come, the others by their numbers; return when all are answered."""
        jobs = [self.first(first, str(len(others)))]
        jobs += [self.further(stream, str(number)) for number, stream in enumerate(others)]
        return gatherResults(jobs)

    def _come(self, stream: Stream, enter: Callable[[Any], Awaitable[Any]]) -> Deferred[None]:
        group = self.groups.of(self.token)

        async def come() -> None:
            try:
                await (await enter(group))
            except WingsdError as error:
                stream.answers.append(error)
            else:
                stream.answers.append(None)

        return Deferred.fromCoroutine(come())

    async def settled(self) -> None:
        for transfer in tuple(self.receiver.transfers._open.values()):
            await transfer.over
        assert self.groups._open == {}

    async def all_fail(self, kind: type[WingsdError], *streams: Stream) -> WingsdError:
        """See that each was answered with the same error, and that nothing is left."""
        error = streams[0].answer
        assert isinstance(error, kind)
        assert [stream.answer for stream in streams] == [error] * len(streams)
        await self.settled()
        assert self.receiver.calls == ["owns", "describe", "failure"]
        assert self.receiver.left() == []
        assert self.receiver.kept() == {}
        assert await self.receiver.database.was_used(self.token.digest, self.token.expires)
        return error
