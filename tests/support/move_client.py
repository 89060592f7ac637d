"""A source of moves, written against docs/protocol.md, for tests of a destination.

Requests block in threads, each over a connection that stays open. Nothing here decides: a test
says what is asked, in which order, and of what.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import requests
from twisted.internet.threads import deferToThread

from tests.support.attributes import reading
from wingsd.moves.filling import Batch, BatchFiller, ContentReader, deflated
from wingsd.moves.plan import plan
from wingsd.moves.scan import Scan
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import HeldTree, MoveLimits, MoveTree

WITHIN = 60
LIMITS = MoveLimits(1 << 20, 1 << 40)


@attrs.frozen
class Answer:
    """An answer: its status, and its body as JSON, or as it is."""

    status: int
    json: dict[str, Any]
    body: bytes = b""
    headers: Mapping[str, str] = {}

    @property
    def code(self) -> str:
        return str(self.json.get("code", ""))


class MoveClient:
    """The source of one move of the files below `root`.

    `url` is the destination's address of transfers; `verify` the file of its authority.
    """

    def __init__(
        self, url: str, server: str, token: str, root: Path, verify: str | bool = True
    ) -> None:
        self._server = server
        self.move_to(url)
        self._token = token
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = verify
        self.root = root
        self.key = secrets.token_hex(32)
        self.id = ""
        self.session = ""
        self.size = 256 << 10
        self.sent = MoveTree()
        self.filler = BatchFiller(self.size)
        #: What the answer to the beginning was, by `move`.
        self.begun: dict[str, Any] = {}
        #: What the last answer to `resume` was.
        self.held: dict[str, Any] = {}
        #: Bytes of batches that were sent.
        self.bytes = 0

    def move_to(self, url: str) -> None:
        """Ask another address from now on."""
        self._url = f"{url}/{self._server}/move"

    # Requests

    async def ask(
        self, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> Answer:
        """Ask something of the move, with its key or another."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        headers |= options.pop("headers", {})
        url = f"{self._url}/{self.id}{path}"
        answer: Answer = await deferToThread(self._ask, method, url, headers, options)
        return answer

    def _ask(
        self, method: str, url: str, headers: dict[str, str], options: dict[str, Any]
    ) -> Answer:
        response = self._session.request(method, url, headers=headers, timeout=WITHIN, **options)
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        said = response.json() if is_json else {}
        return Answer(response.status_code, said, response.content, response.headers)

    async def begin(self, **changes: Any) -> Answer:
        """Begin the move; the fields of the body may be others."""
        body = {
            "version": 1,
            "key": self.key,
            "family": "pterodactyl",
            "bytes": 0,
            "files": 0,
            "backups": [],
            "log": None,
            "encodings": ["zstd"],
        }
        headers = {"Authorization": f"Bearer {self._token}"}
        options = {"json": body | changes}
        answer: Answer = await deferToThread(self._ask, "POST", self._url, headers, options)
        self.id = answer.json.get("id", self.id)
        return answer

    async def resume(self) -> Answer:
        """Begin a session; learn what is held."""
        answer = await self.ask("POST", "/resume", json={})
        if answer.status == 200:
            self.held = answer.json
            self.session = answer.json["session"]
            tree = HeldTree(LIMITS)
            for number in range(1, answer.json["pages"] + 1):
                page = await self.ask("GET", "/tree", params=self.in_session(page=number))
                assert page.status == 200
                tree.add(page.body)
            self.sent = tree.finish(answer.json["file"])
            self.filler = BatchFiller(
                self.size,
                number=answer.json["next"] - 1,
                in_round=answer.json["round"] - 1,
                shape=answer.json["shape"],
            )
        return answer

    def in_session(self, **others: Any) -> dict[str, Any]:
        return {"session": self.session} | others

    def round(self) -> list[Batch]:
        """Return the batches of the next round."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            now = Scan(lambda line: None, reading(fd), None, SeenDirectories()).run(fd)
            planned = plan(self.sent, now, lambda before, node: False)
            batches = list(self.filler.shapes(planned))
            with closing(ContentReader(fd, reading(fd), lambda size: None)) as reader:
                contents = (each for content in planned.contents for each in reader.read(content))
                batches += self.filler.data(contents)
        finally:
            os.close(fd)
        self.sent = now
        return batches

    async def put(self, batch: Batch, *, zstd: bool = False, **options: Any) -> Answer:
        """Send a batch."""
        body = b"".join(batch.pieces())
        headers = {"Content-Type": "application/vnd.wingsd.batch"}
        if zstd:
            body = b"".join(deflated([body]))
            headers["Content-Type"] += "+zstd"
        self.bytes += len(body)
        return await self.put_bytes(batch.index.number, body, headers=headers, **options)

    async def put_bytes(self, number: int, body: Any, **options: Any) -> Answer:
        """Send anything as a batch."""
        path = f"/batches/{number}"
        return await self.ask("PUT", path, data=body, **{"params": self.in_session()} | options)

    async def put_all(self, batches: Iterable[Batch]) -> None:
        """Send batches in their order; each must be taken."""
        for batch in batches:
            answer = await self.put(batch)
            assert answer.status == 200, answer

    async def close(self, **changes: Any) -> Answer:
        """Close the round."""
        body = {"last": self.filler.number, "root": self.root_digest} | changes
        path = f"/rounds/{self.filler.round}"
        return await self.ask("POST", path, json=body, params=self.in_session())

    @property
    def root_digest(self) -> str:
        return self.sent.root().hex()

    async def attach(self, name: str, data: bytes, piece: int = 100_000) -> None:
        """Send an attachment in pieces; go on where it is."""
        path = f"/attachments/{name}"
        at = (await self.ask("GET", path, params=self.in_session())).json["offset"]
        while True:
            part = data[at : at + piece]
            params = self.in_session(offset=at)
            if at + len(part) == len(data):
                params["sha256"] = hashlib.sha256(data).hexdigest()
            answer = await self.ask("PATCH", path, data=part, params=params)
            assert answer.status == 200, answer
            at = answer.json["offset"]
            if at == len(data):
                return

    async def commit(self, **changes: Any) -> Answer:
        """Ask for the commit."""
        body = {"round": self.filler.round, "root": self.root_digest, "running": False} | changes
        return await self.ask("POST", "/commit", json=body, params=self.in_session())

    async def status(self, **params: Any) -> Answer:
        """Ask how far it is."""
        return await self.ask("GET", "", params=params)

    async def outcome(self) -> dict[str, Any]:
        """Return the status when the move has ended."""
        tag, status = "", Answer(0, {})
        while status.json.get("outcome") is None:
            status = await self.status(wait=5, since=tag)
            assert status.status == 200, status
            tag = status.json["tag"]
        return status.json

    # What a source does

    async def open(self, **changes: Any) -> MoveClient:
        """Begin the move, and its first session."""
        begun = await self.begin(**changes)
        assert begun.status == 201, begun
        resumed = await self.resume()
        assert resumed.status == 200, resumed
        return self

    async def send(self) -> None:
        """Send all of the files, and close the round."""
        await self.resume()
        await self.put_all(self.round())
        closed = await self.close()
        assert closed.status == 200, closed

    async def move(self, **changes: Any) -> dict[str, Any]:
        """Move the server; return the last status."""
        answer = await self.begin(**changes)
        assert answer.status == 201, answer
        self.begun = answer.json
        await self.send()
        assert (await self.commit()).status == 202
        return await self.outcome()

    async def finish(self, **changes: Any) -> None:
        """Have the move committed, which is to be a success."""
        assert (await self.commit(**changes)).status == 202
        assert (await self.outcome())["outcome"] == "success"

    async def give_up(self) -> None:
        """End the move; what has arrived is kept for the next one."""
        assert (await self.ask("DELETE", "", params={"keep": "1"})).status == 204

    def end(self) -> None:
        """Close the connection."""
        self._session.close()
