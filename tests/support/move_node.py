"""A destination of moves that resume, by docs/protocol.md, which fails as a test says.

It keeps what arrives in a directory, by `wingsd.moves`, in the reactor's thread.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET

from tests.moves.moving import Destination as Copy
from tests.moves.moving import Opened, feed
from tests.support.reactor import until
from tests.support.sender import Destination, Sender
from wingsd.config import LiveMovesConfig
from wingsd.errors import WingsdError
from wingsd.moves.destination import MoveDestination
from wingsd.servers.power_states import PowerState
from wingsd.threadio import Workers

ZSTD = b"\x28\xb5\x2f\xfd"
#: What a fault does: a status with its fields, or one of these.
CUT, SILENT, CUT_AFTER, CUT_WITHIN = "cut", "silent", "cut after", "cut within"
Fault = tuple[int, dict[str, Any]] | str | None


class MoveNode(Destination):
    """Takes a move: `copy.tree` is what it has. Requests are noted in `asked`, by their kinds.

    `fault` is called with the kind of each request and how often that kind came; what it returns
    is what becomes of the request instead. After `CUT_AFTER` it is done, and not answered; of the
    answer of `CUT_WITHIN` the last byte is missing.
    """

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.features = "symlinks, hard-links, move-1"
        self.place = place
        self.copy = Copy(place)
        self.fault: Callable[[str, int], Fault] = lambda kind, count: None
        self.asked: list[str] = []
        self.order: dict[str, Any] = {}
        self.key = self.session = ""
        self.token = "token"
        self.sessions = self.round = 0
        self.limit, self.streams, self.encodings = 16 << 20, 2, ["zstd"]
        self.attributes_kept = ["user", "acl"]
        self.batches: list[tuple[int, int]] = []
        self.under_way = self.most_under_way = 0
        self.attachments: dict[str, bytes] = {}
        self.whole: set[str] = set()
        self.phase = "open"
        self.outcome: str | None = None
        self.deleted: list[str] = []
        #: What the source has measured when it asked for a preparation.
        self.measured: dict[str, int] = {}
        #: How a preparation ends.
        self.prepared: dict[str, Any] = {"state": "ready"}
        self._preparation: dict[str, Any] | None = None
        #: Commits that are told as done at once.
        self.commits = True
        self._opened: Opened | None = None
        self.id = self.copy.move.hex()

    # The node

    @property
    def of(self) -> MoveDestination:
        if self._opened is None:
            self._opened = self.copy.open()
        return self._opened.of

    def restart(self) -> None:
        """Forget what is only in memory, as a node does that is started anew."""
        self.session, self.phase = "", "open"
        self.close()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.__exit__()
            self._opened = None

    def count(self, kind: str) -> int:
        return self.asked.count(kind)

    def at_round(self, number: int, act: Callable[[], Fault]) -> None:
        """Have something happen when a round is to be closed."""

        def fault(kind: str, count: int) -> Fault:
            return act() if (kind, count) == ("rounds", number) else None

        self.fault = fault

    # Requests

    def render_GET(self, request: Any) -> bytes | int:
        return self._move(request)

    def render_PUT(self, request: Any) -> bytes | int:
        return self._move(request)

    def render_PATCH(self, request: Any) -> bytes | int:
        return self._move(request)

    def render_DELETE(self, request: Any) -> bytes | int:
        return self._move(request)

    def render_POST(self, request: Any) -> bytes | int:
        if b"/move" not in request.path:
            return super().render_POST(request)
        return self._move(request)

    def _move(self, request: Any) -> bytes | int:
        path = request.path.decode().partition("/move")[2]
        parts = [part for part in path.split("/") if part]
        kind = parts[1] if len(parts) > 1 else "begin" if not parts else "state"
        kind = "delete" if request.method == b"DELETE" else kind
        self._note(request)
        self.asked.append(kind)
        fault = self.fault(kind, self.count(kind))
        if isinstance(fault, tuple):
            return self._say(request, *fault)
        answers = fault in (None, CUT_AFTER, CUT_WITHIN)
        answer = self._do(kind, parts, request) if answers else (0, {})
        if fault == CUT_WITHIN:
            said = answer if isinstance(answer, bytes) else self._say(request, *answer)
            assert isinstance(said, bytes)
            request.setHeader("Content-Length", str(len(said)))
            request.write(said[:-1])
            request.channel.loseConnection()
            return NOT_DONE_YET
        if fault is not None:
            if fault != SILENT:
                request.channel.forceAbortClient()
            return NOT_DONE_YET
        return answer if isinstance(answer, bytes) else self._say(request, *answer)

    def _do(self, kind: str, parts: list[str], request: Any) -> bytes | tuple[int, dict[str, Any]]:
        data, bearer = request.content.read(), request.getHeader("Authorization")
        asked = {key.decode(): value[0].decode() for key, value in request.args.items()}
        if kind == "begin":
            return self._begin(bearer, json.loads(data))
        if bearer != f"Bearer {self.key}" or parts[0] != self.id:
            return _error(401, "move-key-invalid")
        if kind in ("prepare", "room"):
            self.measured = json.loads(data)
        if kind in ("resume", "state", "delete", "prepare", "room"):
            return getattr(self, f"_{kind}")(asked)  # type: ignore[no-any-return]
        if not self.session or asked.get("session") != self.session:
            return _error(409, "move-resume-needed")
        try:
            return getattr(self, f"_{kind}")(parts, asked, data)  # type: ignore[no-any-return]
        except WingsdError as error:
            return _error(error.status, error.code)

    def _delete(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.deleted.append("keep" if asked.get("keep") else "all")
        return 204, {}

    def _begin(self, bearer: str, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.key and (bearer, order["key"]) != (f"Bearer {self.token}", self.key):
            return _error(401, "token-used")
        status = 200 if self.key else 201
        self.key, self.order = order["key"], order
        return status, {
            "id": self.id,
            "version": order["version"],
            "attributes": self.attributes_kept,
            "batch": self.limit,
            "streams": self.streams,
            "encodings": self.encodings,
        }

    def _resume(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.sessions += 1
        self.session, self.phase = f"s{self.sessions}", "open"
        told = self.of.rebase()
        return 200, {
            "session": self.session,
            "round": told.round,
            "next": told.next,
            "shape": told.shape,
            "file": told.file,
            "pages": told.pages,
            "bytes": told.bytes,
        }

    def _room(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        return 204, {}

    def _prepare(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self._preparation = self.prepared
        return 202, {}

    def _tree(self, parts: list[str], asked: dict[str, str], data: bytes) -> bytes:
        return self.of.ledger.part(int(asked["page"]))

    def _batches(
        self, parts: list[str], asked: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, Any]]:
        if len(data) > self.limit:
            return _error(413, "move-batch-too-large")
        self.batches.append((int(parts[2]), len(data)))
        feed(self.of, iter([data]), zstd=data.startswith(ZSTD))
        return 200, {"durable": self.of.durable}

    def _rounds(
        self, parts: list[str], asked: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, Any]]:
        said = json.loads(data)
        self.of.close_round(int(parts[2]), said["last"], bytes.fromhex(said["root"]))
        self.round = int(parts[2])
        return 200, {"root": said["root"]}

    def _attachments(
        self, parts: list[str], asked: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, Any]]:
        name = parts[2]
        here = self.attachments.setdefault(name, b"")
        if "offset" not in asked:
            return 200, {"offset": len(here)}
        if int(asked["offset"]) != len(here):
            return 409, {**_error(409, "move-offset-wrong")[1], "offset": len(here)}
        here = self.attachments[name] = here + data
        if "sha256" in asked:
            if hashlib.sha256(here).hexdigest() != asked["sha256"]:
                self.attachments[name] = b""
                return 409, {**_error(409, "move-offset-wrong")[1], "offset": 0}
            self.whole.add(name)
        return 200, {"offset": len(here)}

    def _commit(
        self, parts: list[str], asked: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, Any]]:
        said = json.loads(data)
        if said["round"] != self.round:
            return _error(409, "move-round-incomplete")
        self.phase = "commit"
        self.running = said["running"]
        if self.commits:
            self.of.finish()
            self.phase, self.outcome = "over", "success"
        return 202, {}

    def _state(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        return 200, {
            "phase": self.phase,
            "tag": f"{self.phase}-{self.sessions}",
            "session": self.session,
            "step": "receive",
            "text": "receiving the archive",
            "preparation": self._preparation,
            "outcome": self.outcome,
            "error": None,
            "detail": None,
            "code": None,
        }

    def _say(self, request: Any, status: int, said: dict[str, Any]) -> bytes | int:
        request.setResponseCode(status)
        for name, value in said.pop("headers", {}).items():
            request.setHeader(name, value)
        request.setHeader("Content-Type", "application/json")
        return json.dumps(said).encode() if said else b""


class Mover(Sender):
    """A node that moves a server to a `MoveNode`, and runs on with it while `live` is enabled."""

    def __init__(
        self,
        directory: Path,
        workers: Workers,
        regions: int = 3,
        size: int = 900_000,
        live: LiveMovesConfig | None = None,
        **options: Any,
    ) -> None:
        """The server has so many large files; `options` are of `Sender`."""
        self.there = MoveNode(directory / "there")
        super().__init__(directory, workers, destination=self.there, **options)
        if live is not None:
            self.follow(live)
        for number in range(regions):
            (self.tree / f"region{number}").write_bytes(os.urandom(size))

    async def succeeds(self, *, running: bool | None = None, **asked: Any) -> None:
        """Move the server, which is to be a success; `asked` are fields of the order."""
        await self.start(**asked)
        self.check_moved(running=running)

    async def fails(self) -> None:
        """Move the server, which is to fail."""
        await self.start()
        assert self.states[-1] == "failure"

    async def stop_at(self, kind: str, count: int = 1) -> None:
        """Have the daemon stop in a transfer, when the destination gets a request."""
        there: Deferred[None] = Deferred()

        def fault(asked: str, number: int) -> Fault:
            if (asked, number) == (kind, count):
                there.callback(None)
            return SILENT if asked == kind and number >= count else None

        self.there.fault = fault
        over = self.start()
        await there
        await self.transfers.stop()
        await over
        self.there.fault = lambda asked, number: None

    async def go_on(self) -> None:
        """Have the next daemon go on with the move, to its end."""
        self.next_daemon()
        await until(lambda: bool(self.transfers.servers))
        await until(lambda: not self.transfers.servers)

    def check_moved(self, *, running: bool | None = None) -> None:
        """The server was moved, is the same there, and ran until then if that is said."""
        assert self.states[-2:] == ["success", "completed"], self.lines
        assert tree_of(self.tree) == tree_of(self.there.copy.tree)
        assert running is None or self.there.running is running

    def check_runs_on(self) -> None:
        """The transfer has failed, and nothing was done to the server."""
        begun = "starting" if self.sender.parts.config.live.enabled else "pending"
        assert self.states == [begun, "failed", "failure"]
        assert self.calls == []
        assert self.server.operations.hold is None
        assert self.server.state is PowerState.RUNNING

    async def close(self) -> None:
        await super().close()
        self.there.close()


def _error(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return int(status), {"error": f"the node says {code}", "detail": "a test", "code": code}


def refused(status: int, code: str = "") -> Fault:
    """Return a fault that is an answer, of a proxy without a code."""
    return _error(status, code) if code else (status, {})


def tree_of(directory: Path) -> dict[str, Any]:
    """Return what is compared of a tree: kinds, modes, times, contents and links."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        stat = path.lstat()
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = (stat.st_mode, stat.st_mtime_ns)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (stat.st_mode, stat.st_mtime_ns, stat.st_nlink, content)
    return found
