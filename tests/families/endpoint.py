"""A node's HTTP interface over connections in memory; behind it Panel and engine are faked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.api.node import context
from tests.families.recordings import Recording
from tests.http.talk import Transport
from tests.support import Panel
from tests.support.reactor import until
from tests.support.receiver import Receiver
from tests.support.sample_server import UUID
from wingsd.api.routes import root
from wingsd.config import PTERODACTYL, Config, LiveConfig, StreamsConfig
from wingsd.http.site import NodeSite
from wingsd.transfers.incoming.uploads import StreamGroups


@attrs.frozen
class Outcome:
    """What a sender has got for an answer, None for a status where it got none; and what is left.

    `told` has each report to the Panel: the name of the call, and which backups went with it.
    """

    status: int | None
    error: str
    files: dict[str, bytes]
    #: What is in the directories of backups and logs, by its path.
    kept: dict[str, bytes]
    told: list[tuple[str, Any]]
    state: str
    #: What is in the directories of servers and of staging.
    left: list[str]
    #: The lines in the server's console.
    said: list[str]


class Connection:
    def __init__(self, its: NodeSite) -> None:
        self._clock: Any = its.reactor
        self._transport = Transport(peerAddress=IPv4Address("TCP", "192.0.2.1", 50000))
        self._protocol: Any = its.buildProtocol(None)
        self._protocol.makeConnection(self._transport)

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Send them, each when the node reads, and none once it has answered."""
        for piece in pieces:
            await until(lambda: self._transport.producerState == "producing" or self._is_over)
            if self._is_over:
                return
            self._protocol.dataReceived(piece)
            self._clock.advance(0)

    async def answer(self) -> tuple[int | None, str]:
        """Return the answer's status and, of a failure, its words; None where there is none."""
        await until(lambda: self._is_over)
        self.close()
        if self._transport.aborting:
            return None, ""
        ((status, _, body),) = self._transport.answers()
        return status, json.loads(body)["error"] if body else ""

    def close(self) -> None:
        self._protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def _is_over(self) -> bool:
        return bool(self._transport.value()) or self._transport.aborting


class Endpoint:
    """A node of a family, and uploads to it."""

    def __init__(self, receiver: Receiver, family: str) -> None:
        self.receiver = receiver
        self._panel = Panel()
        self._node = self._panel.add_node("https://node.invalid:8080")
        config = Config(
            token_id=self._node.token_id,
            token=self._node.token,
            remote=self._panel.url,
            family=family,
        )
        # Pterodactyl's tokens have none.
        self._claims: dict[str, Any] = {} if family == PTERODACTYL else {"scope": "transfer"}
        streams = StreamGroups(receiver.transfers, receiver.database, StreamsConfig(), Clock())
        self._site = site(
            config, receiver=receiver.transfers, streams=streams, database=receiver.database
        )

    async def upload(
        self, recording: Recording, cut: Callable[[bytes], Iterable[bytes]] | None = None
    ) -> Outcome:
        """Send a recording, a chunk for each write, or the whole request in pieces by `cut`."""
        connection = self._connect()
        head = recording.head(self._token())
        pieces: Iterable[bytes] = [head, *chunks_of(recording.writes)]
        await connection.send(cut(b"".join(pieces)) if cut else pieces)
        return await self._outcome(*await connection.answer())

    async def relay(self, content_type: str, body: bytes) -> Outcome:
        """Send a form as another node has sent it, or would have."""
        connection = self._connect()
        lines = [
            "POST /api/transfers HTTP/1.1",
            "Host: node",
            f"Authorization: Bearer {self._token()}",
        ]
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        await connection.send(["\r\n".join([*lines, "", ""]).encode(), body])
        return await self._outcome(*await connection.answer())

    async def break_off(self, recording: Recording, size: int) -> Outcome:
        """Send so many bytes of a recording's body, and then go away."""
        connection = self._connect()
        head = recording.head(self._token())
        await connection.send([head, *chunks_of([recording.body[:size]], end=b"")])
        connection.close()
        return await self._outcome(None, "")

    def _connect(self) -> Connection:
        receiver = self.receiver
        for place in (receiver.data / UUID, receiver.backup_directory, receiver.logs):
            shutil.rmtree(place, ignore_errors=True)
        receiver.panel.owned, receiver.panel.reported_backups = [False], []
        receiver.calls.clear()
        receiver.lines.clear()
        return Connection(self._site)

    def _token(self) -> str:
        return self._panel.transfer_token(UUID, self._node, **self._claims)

    async def _outcome(self, status: int | None, error: str) -> Outcome:
        receiver = self.receiver
        await until(lambda: not receiver.transfers.servers)
        reports = [call for call in receiver.calls if call in ("success", "failure")]
        told = [*receiver.panel.reported_backups, *(None for _ in reports)]
        return Outcome(
            status=status,
            error=error,
            files=files_in(receiver.data / UUID),
            kept=receiver.kept(),
            told=[*zip(reports, told, strict=False)],
            state=receiver.states[-1],
            left=receiver.left(),
            # Without the time, and who speaks.
            said=[line.partition("\x1b[0m ")[2] for line in receiver.lines],
        )


def site(config: Config, **collaborators: Any) -> NodeSite:
    """Return the site of a node that has only these collaborators."""
    return NodeSite(
        root(context(LiveConfig(config), **collaborators)), reactor=Clock(), timeout=60
    )


def files_in(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def chunks_of(writes: Iterable[bytes], end: bytes = b"0\r\n\r\n") -> Iterable[bytes]:
    """Yield a body as HTTP carries it in chunks, and its end."""
    yield from (b"%x\r\n%s\r\n" % (len(write), write) for write in writes if write)
    yield end
