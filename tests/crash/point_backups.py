"""Kills of a node whose backups are points of a history: made, merged, restored and deleted."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping
from contextlib import closing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid5

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from tests.crash.engine import Broken, until_none
from tests.crash.nodes import Kill
from tests.crash.one_node import Content, contents
from tests.crash.rewinds import MOMENTS, PastNode
from tests.support.docker_engine import Engine
from tests.support.nodes import NodeError
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.support.tokens import signed_url_token
from wingsd.cli.client import CtlError
from wingsd.history.names import read_names
from wingsd.statedb import Store

#: Backups of the server at most, and how many of them are downloaded after each kill.
_MOST, _DOWNLOADED = 6, 2
#: The age in seconds at which points without a name are removed when the next one is made.
_KEPT = 10
#: Answers about the past when its point goes, or the history is in use.
_REFUSED = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
#: What half of the backups leave out.
_IGNORED = "world/3"


class PointBackupKills(PastNode):
    """After each kill all backups are as the Panel has them, and their contents as they were.

    Each is the name of a point, all points have their roots, and none stays for a name that is
    gone. The server has all of its files, or all of the backup's. Meanwhile `.history` is read,
    which shows no file that there never was.
    """

    #: What is done, and by which lines of the log it is killed.
    by_variant: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "make": (
            "A backup of the server is being made",
            "The backup is complete",
            "was reported to the Panel",
        ),
        "make and delete": ("A backup of the server is being made", "The backup is complete"),
        "delete": (),
        "merge": (),
        "lay over": MOMENTS,
        "replace all": MOMENTS,
    }
    #: Seconds within which kills come that are at no line.
    within: ClassVar[Mapping[str, float]] = {"delete": 0.3, "merge": 0.8, "make": 0.8}

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        super().__init__(directory, engine)
        history = self.changes["system"]["history"]
        history["keep"] = {f"{_KEPT}s": 2}
        self.changes["system"]["backups"] = {"wings": {"kind": "history"}}
        self._directory = Path(history["directory"], UUID)
        #: The backups that the server has, with their files; those that are being made or deleted.
        self._backups: dict[str, Content] = {}
        self._making: dict[str, Content] = {}
        self._deleting: dict[str, bool] = {}
        #: All texts that each file has had.
        self._texts: dict[str, set[str]] = {}
        #: The world, and what it becomes where a backup is restored.
        self._world: Content = {}
        self._restored: Content | None = None
        self._acts: list[Deferred[None]] = []
        self._reading: Deferred[None] = succeed(None)
        self._is_over = False
        #: Of what was begun, what has not come to its end.
        self._missing = ""

    def plan(self, rng: random.Random) -> Kill:
        variants = [*self.by_variant]
        if not self._backups:
            variants = ["make"]
        elif len(self._backups) >= _MOST:
            variants.remove("make")
        variant = rng.choice(variants)
        moments = self.by_variant[variant]
        if not moments or rng.random() < self.at_random:
            seconds = rng.uniform(0, self.within.get(variant, self.latest))
            return Kill((self.role,), seconds, variant=variant)
        return Kill((self.role,), rng.choice(moments), (rng.choice([0.0, self.linger]),), variant)

    # What is begun

    async def begin(self, variant: str = "") -> None:
        """Change the world, and do what the variant says. Others read the past meanwhile."""
        self.number += 1
        await until_none(self.not_up)
        self._change(self.number)
        self._restored, self._is_over, self.accepted = None, False, False
        self._reading = Deferred.fromCoroutine(self._read())
        if not self._backups:
            variant = "make"
        backup = self.rng.choice([*self._backups]) if self._backups else ""
        if variant.startswith("make"):
            await self._make(str(uuid5(NAMESPACE_OID, f"backup {self.number}")))
        if variant.endswith("delete"):
            self._begin(self._delete(backup))
        elif variant == "merge":
            self._begin(self._merge())
        elif variant in ("lay over", "replace all"):
            await self._restore(backup, truncate=variant == "replace all")

    def _change(self, number: int) -> None:
        self._world = self.write(number)
        for path, data in self._world.items():
            self._texts.setdefault(path, set()).add(data.decode("utf-8", "replace"))

    def _begin(self, act: Any) -> None:
        self._acts.append(Deferred.fromCoroutine(act))

    async def _make(self, backup: str) -> None:
        ignored = _IGNORED if self.rng.random() < 1 / 2 else ""
        self._making[backup] = {
            path: data
            for path, data in self._world.items()
            if not (ignored and f"world/{path}".startswith(f"{ignored}/"))
        }
        self.panel.backups.add(backup, UUID)
        body = {"adapter": "wings", "uuid": backup, "ignore": ignored}
        await self.ask(f"/api/servers/{UUID}/backup", body)

    async def _delete(self, backup: str) -> None:
        self._deleting[backup] = False
        with suppress(NodeError):
            path = f"/api/servers/{UUID}/backup/{backup}"
            status, answer = await self.panel.ask(self.node.node, "DELETE", path)
            if status != HTTPStatus.NO_CONTENT:
                raise Broken(f"a backup cannot be deleted: {status}, {answer}")
            self._deleting[backup] = True

    async def _merge(self) -> None:
        """Make a point without a name, and remove the others of these."""
        with suppress(CtlError):
            await self.make_point()
            undo = self._undo()
            for point in (await self.points())[1:]:
                if not point["backups"] and point["number"] not in undo:
                    await self.order("DELETE", f"/points/{point['number']}")

    async def _restore(self, backup: str, *, truncate: bool) -> None:
        found = self._backups[backup]
        self._restored = dict(found) if truncate else self._world | found
        with suppress(NodeError):
            await self.panel.restore(UUID, backup, truncate_directory=truncate)
            self.accepted = True

    async def _read(self) -> None:
        """Read the past until all is over, also after the node's death."""
        rng = random.Random(self.number)
        while not self._is_over:
            try:
                await self._read_some(rng)
            except NodeError:
                await deferLater(reactor, 0.03)

    async def _read_some(self, rng: random.Random) -> None:
        """Read some files of a point."""
        points = await self._listed("/.history")
        path = f"/.history/{rng.choice(points)}/world" if points else ""
        parts = await self._listed(path) if path else []
        for part in rng.sample(parts, min(2, len(parts))):
            files = await self._listed(f"{path}/{part}")
            for file in rng.sample(files, min(3, len(files))):
                await self._check_file(path, f"{part}/{file}")

    async def _get(self, path: str) -> Any:
        """Return what the file manager gets, None where it is refused."""
        path = f"/api/servers/{UUID}/files/{path}"
        status, answer = await self.panel.ask(self.node.node, "GET", path)
        if status == HTTPStatus.OK:
            return answer
        if status not in _REFUSED:
            raise Broken(f"the past is not read: {status}, {answer}")
        return None

    async def _listed(self, directory: str) -> list[str]:
        found = await self._get(f"list-directory?directory={quote(directory)}") or []
        return [str(each["name"]) for each in found]

    async def _check_file(self, directory: str, path: str) -> None:
        found = await self._get(f"contents?file={quote(f'{directory}/{path}')}")
        if found is None:
            return
        if str(found) not in self._texts.get(path, ()):
            raise Broken(f"{directory}/{path} was never so")
        self.found["files of the past read"] += 1

    # What is checked

    async def unsettled(self) -> str:
        if self.accepted and self.panel.restoring(UUID):
            return "the Panel shows the server as being restored"
        for backup in self._making:
            if self.accepted and not self.panel.backups.known[backup].is_over:
                return "the Panel shows a backup as being made"
        return await super().unsettled()

    async def check(self) -> None:
        try:
            await self._check()
        finally:
            self._is_over = True
            await self._reading

    async def _check(self) -> None:
        acts, self._acts = self._acts, []
        for act in acts:
            await act
        self._missing = ""
        self._check_world()
        self._check_names()
        await self._check_points()
        await self.verify()
        backups = self.rng.sample(sorted(self._backups), min(_DOWNLOADED, len(self._backups)))
        for backup in backups:
            await self._check_download(backup)

    def _check_world(self) -> None:
        found, restored = contents(self.world), self._restored
        if self.accepted and restored is not None:
            is_restored = self.panel.restored(UUID)
            if found != (restored if is_restored else self._world):
                raise Broken(f"restored by the Panel: {is_restored}; the world does not match")
        elif found not in (self._world, restored):
            raise Broken("files of the world are lost, or others")
        if restored is not None:
            self._missing = "" if found == restored else "restored"
            self.found["as before" if self._missing else "restored"] += 1

    def _check_names(self) -> None:
        """Check that the names are the backups that the Panel has."""
        names = read_names(str(self._directory))
        for backup, content in self._making.items():
            told = self.panel.backups.known[backup].told or {}
            is_made = bool(told.get("successful"))
            if is_made != (backup in names):
                raise Broken(f"the Panel has heard {told}, and a name is there: {not is_made}")
            if is_made:
                self._backups[backup] = content
                if told["checksum"] != names[backup].root:
                    raise Broken("a backup has another root than the Panel")
                size = sum(map(len, content.values()))
                if not self.runs and told["size"] != size:
                    raise Broken(f"a backup of {size} bytes is reported with {told['size']}")
            else:
                self._missing = "made"
            self.found["made" if is_made else "not made"] += 1
        for backup, is_deleted in self._deleting.items():
            if is_deleted and backup in names:
                raise Broken("a deleted backup is still there")
            if backup not in names:
                del self._backups[backup]
                self.found["deleted"] += 1
            else:
                self._missing = "deleted"
        self._making, self._deleting = {}, {}
        if names.keys() != self._backups.keys():
            raise Broken(f"backups are {[*names]} in place of {[*self._backups]}")

    async def _check_points(self) -> None:
        """Check that each name has its point, and that other points go as they should."""
        named = {each.number for each in read_names(str(self._directory)).values()}
        if missing := named - {each["number"] for each in await self.points()}:
            raise Broken(f"points {missing} of backups are not there")
        self._change(-self.number)
        await self.make_point()
        found, undo = await self.points(), self._undo()
        for point in found[1:]:
            age = found[0]["time"] - point["time"]
            if point["number"] not in named | undo and age > 2 * _KEPT:
                raise Broken(f"point {point['number']} has no name, and stays for {age:.0f} s")

    def _undo(self) -> set[int]:
        """Return the points by which restores can be undone."""
        with closing(Store(str(self.node.directory))) as store:
            store.open(read_only=True)
            return {each.undo for each in store.rewinds() if each.undo is not None}

    async def _check_download(self, backup: str) -> None:
        token = signed_url_token(self.node.node.token, UUID, "backup-download", backup_uuid=backup)
        status, data = await self.node.fetch(f"/download/backup?token={token}")
        if status != HTTPStatus.OK:
            raise Broken(f"a backup cannot be downloaded: {status}")
        found = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as members:
            for member in members:
                path = member.name.removeprefix("./")
                if member.isfile() and path.startswith("world/"):
                    file = members.extractfile(member)
                    found[path.removeprefix("world/")] = b"" if file is None else file.read()
        if found != self._backups[backup]:
            raise Broken("a backup has other files than the server had")
        self.found["downloaded"] += 1

    def check_success(self) -> None:
        if self._missing:
            raise Broken(f"without a kill it is not {self._missing}")
