"""Uploads received one after another, whole or not: all is real but the connection and the Panel.

The body is there before it is read, so everything happens at once and in one thread; where it
comes from is no socket, but the pieces that the test cuts it into.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.families.recordings import Recording
from tests.support import SynchronousWorkers
from tests.support.receiver import SINGLE, ReceiverHarness
from tests.support.sample_server import UUID
from tests.threadio.reactor import ManualReactor
from wingsd.api.upload import UploadStream
from wingsd.panel.schemas import Settings
from wingsd.threadio import Feed
from wingsd.transfers.incoming.receive import ReceivedServer, ReceivePhase
from wingsd.transfers.incoming.uploads import FormFeed
from wingsd.transfers.steps import RollbackList
from wingsd.transfers.storage.incoming import ArrivingServer
from wingsd.transfers.upload_form import Checksums, UploadForm

__all__ = ["Parts", "Receptions", "Result", "files_in", "now", "read"]

T = TypeVar("T")
#: What each part is, and its blocks; the archive is None.
Parts = list[tuple[object, list[bytes]]]


@attrs.frozen
class Result:
    """What an upload has brought into the staging areas, and what was computed from it."""

    files: dict[str, bytes]
    backups: dict[str, bytes]
    log: bytes | None
    sha256: str
    backup_sha256: dict[str, str]
    checksums: Checksums


def read(recording: Recording, pieces: Iterable[bytes]) -> tuple[Parts, Checksums]:
    """Return each part of an upload's body as the thread gets it, and the checksums.

    Raises the `WingsdError` that the sender would read.
    """
    upload, feed = _upload(recording, pieces), Feed(ManualReactor())
    consumer = FormFeed(UploadForm(recording.content_type), feed)
    upload.deliver(consumer)
    parts: Parts = [(None, [*feed.blocks()])]
    while (label := feed.next_part()) is not None:
        parts.append((label, [*feed.blocks()]))
    return parts, now(consumer.checksums)


class Receptions:
    """A node that receives nothing but what is handed to it."""

    def __init__(self, directory: Path) -> None:
        workers: Any = SynchronousWorkers()
        self._receiver = ReceiverHarness(directory, workers, durable=False)
        self._staged = self._receiver.backups._root / UUID

    def close(self) -> None:
        """Let go of everything."""
        self._receiver.store.close()
        self._receiver.staging.close()

    def receive(self, recording: Recording, pieces: Iterable[bytes]) -> Result:
        """Receive a body in pieces; return what came of it, and forget it again.

        Raises the `WingsdError` that the sender would read.
        """
        upload = _upload(recording, pieces)
        receiver = self._receiver
        steps = receiver.step_logs.receiving(UUID, receiver.coordinators.receiving(UUID))
        files = ArrivingServer(UUID, receiver.storage, RollbackList(UUID))
        phase = ReceivePhase(UUID, files, receiver.extraction, steps)
        try:
            receiving = phase.receive(upload, SINGLE, Settings(UUID))
            received = now(Deferred.fromCoroutine(receiving))
            received.verify()
            return self._look(received)
        finally:
            self._forget()

    def _look(self, received: ReceivedServer) -> Result:
        receiver = self._receiver
        (part,) = received.uploads
        assert part.archive is not None
        log = receiver.staging.log(UUID)
        return Result(
            files=files_in(log.with_suffix("")),
            backups=files_in(self._staged),
            log=log.read_bytes() if log.exists() else None,
            sha256=part.archive.sha256,
            backup_sha256=part.backups,
            checksums=part.checksums,
        )

    def _forget(self) -> None:
        # As the node does, but without a process for each directory that has to go.
        staging, log = self._receiver.staging, self._receiver.staging.log(UUID)
        staging.finish(UUID)
        log.unlink(missing_ok=True)
        for path in (log.with_suffix(""), self._staged):
            if path.exists():
                shutil.rmtree(path)


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the data of each file below a directory, by its path."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


class _Request:
    """The headers of an upload; that its sender may or may not send is nothing to it."""

    def __init__(self, content_type: str) -> None:
        self._headers = {"Content-Type": content_type}

    def header(self, name: str) -> str:
        return self._headers.get(name, "")

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def proceed(self) -> None:
        pass


def _upload(recording: Recording, pieces: Iterable[bytes]) -> UploadStream:
    """Return an upload that has come to its end, and of which nothing is read yet."""
    request: Any = _Request(recording.content_type)
    upload = UploadStream(request)
    for piece in pieces:
        upload.data(piece)
    upload.end()
    return upload


def now(coming: Deferred[T]) -> T:
    """Return what a Deferred gives that has it already."""
    found: list[Any] = []
    coming.addBoth(found.append)
    (result,) = found
    if isinstance(result, Failure):
        result.raiseException()
    return cast(T, result)
