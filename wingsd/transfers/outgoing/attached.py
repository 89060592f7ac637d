"""Files that are sent beside a server, or after it, in pieces; and how large bodies are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import attrs
from twisted.internet.interfaces import IReactorTime

from wingsd.errors import DestinationError, DestinationRefused, StorageError
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.moves.filling import LEAST_SIZE
from wingsd.threadio import Workers
from wingsd.transfers.peer.moves import Cause, MoveClient, MoveSmaller, unusable
from wingsd.util.retry import Budget

#: Bytes of the first batches.
FIRST = 1 << 20
#: Seconds in which a body is to be sent: it passes every proxy, and a break costs little.
SECONDS = 10.0
#: How often the same body is cut on its way until it is made smaller.
CUTS = 2
#: How many bodies are sent until a size is tried again that was cut before. It doubles each time
#: that the larger body is cut as well, since that costs a resumption.
TRIED_AFTER = 64


class BatchSize:
    """The bytes of the next body: what is sent in ten seconds, from `least` up to `most`.

    They count before compression: a body that was compressed is smaller.
    """

    def __init__(self, most: int, *, first: int | None = None, least: int = LEAST_SIZE) -> None:
        self.value = min(FIRST if first is None else first, most)
        self._least = least
        #: Above which nothing is taken, and above which bodies were cut lately.
        self._most = self._uncut = most
        #: Bodies that were taken since, and after how many larger ones are tried.
        self._taken, self._tried_after = 0, TRIED_AFTER // 2

    def taken(self, size: int, seconds: float) -> None:
        """A body of so many bytes was taken after so many seconds."""
        self._taken += 1
        if self._taken >= self._tried_after and self._uncut < self._most:
            self._uncut, self._taken = min(2 * self._uncut, self._most), 0
        if 2 * size < self.value:
            return  # it says little about the line
        wanted = min(size / max(seconds, 0.001) * SECONDS, 2 * self.value, self._uncut)
        self.value = max(int(wanted), self._least)

    def cut(self, size: int, times: int) -> bool:
        """Return whether a body that was cut on its way `times` times is to be made smaller.

        Once may be chance: then it comes again as it is, and only the next ones are smaller.
        """
        half = self._halve(size)
        if times < CUTS or size <= self._least:
            return False
        if half < self._uncut:  # else another one of that size was cut at the same time
            self._uncut, self._tried_after = half, 2 * self._tried_after
        self._taken = 0
        return True

    def refused(self, size: int, error: DestinationError) -> None:
        """A body was too large for the destination. Raises `error` for the smallest."""
        if size <= self._least:
            raise error
        half = self._halve(size)
        self._most, self._uncut = min(self._most, half), min(self._uncut, half)

    def _halve(self, size: int) -> int:
        """Limit bodies to half of `size`: several of that size may fail at once."""
        half = max(size // 2, self._least)
        self.value = min(self.value, half)
        return half


_NOT_READ = "a file that is to be sent with the server could not be read"
_HASHED = 1 << 20


@attrs.frozen(repr=False)
class AttachedFile:
    """A file of `size` bytes at `path`, and the `name` that it is sent by.

    Of one that `may_grow` only so many bytes are sent.
    """

    name: str
    path: str
    size: int
    may_grow: bool = False


class AttachmentReader:
    """Reads a file in pieces, and hashes it. Methods raise `StorageError`."""

    def __init__(self, file: AttachedFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        #: How many bytes were hashed: the next piece begins there.
        self.position = 0

    def piece(self, offset: int, size: int) -> tuple[bytes, str]:
        """Return the bytes from `offset` on, and with the last ones the SHA-256 of the whole."""
        file = self._file
        if offset < self.position:
            self._digest, self.position = hashlib.sha256(), 0
        try:
            with open(os.open(file.path, FILE_FLAGS), "rb") as opened:
                opened.seek(self.position)
                # what is before it; where the file is shorter, the piece is, too
                while data := opened.read(min(_HASHED, offset - self.position)):
                    self._hash(data)
                opened.seek(offset)
                data = opened.read(min(size, file.size - offset))
                is_longer = not file.may_grow and opened.seek(0, os.SEEK_END) > file.size
        except OSError as error:
            raise StorageError(f"{file.path}: {error.strerror or error}", _NOT_READ) from error
        if len(data) < min(size, file.size - offset) or is_longer:
            raise StorageError(f"{file.path} was changed while it was sent", _NOT_READ)
        self._hash(data)
        return data, self._digest.hexdigest() if self.position == file.size else ""

    def _hash(self, data: bytes) -> None:
        self._digest.update(data)
        self.position += len(data)


#: Bytes of a piece.
PIECE = 4 << 20
LEAST_PIECE = 64 << 10


@attrs.frozen(eq=False, repr=False)
class PieceSender:
    """Sends files in pieces of `size`, which `workers` read; `budget` counts what comes again.

    With a `target`, a path to which a query is added, they follow a server that has moved.
    """

    _client: MoveClient
    _clock: IReactorTime
    _workers: Workers
    _size: BatchSize
    _budget: Budget[Cause]
    _target: str = ""

    async def send(
        self, file: AttachedFile, offset: int, reached: Callable[[int], None], sha256: str = ""
    ) -> None:
        """Send what the destination lacks of a file, of which it has so many bytes.

        `reached` gets how many bytes of it are there. Raises `StorageError` where the file does
        not have that `sha256`, if it is given, and what `MoveClient.patch` raises.
        """
        reader = AttachmentReader(file)
        while True:
            if not 0 <= offset <= file.size:
                raise unusable(f"it has {offset} bytes of {file.name}, which has {file.size}")
            data, found = await self._workers.run(reader.piece, offset, self._size.value)
            if found and sha256 not in ("", found):
                raise StorageError(
                    f"{file.path} does not have the checksum of its catalogue; see `wingsctl "
                    "verify`",
                    "a backup is damaged, and not sent",
                )
            size, began = len(data), self._clock.seconds()
            smaller = partial(self._size.cut, size)
            try:
                there, is_taken = await self._client.patch(
                    file.name, offset, data, smaller, found, target=self._target
                )
            except MoveSmaller as refused:
                if not refused.was_cut:
                    self._size.refused(size, refused.error)
                continue
            self._size.taken(size, self._clock.seconds() - began)
            if there < offset or (there == offset and (data or not is_taken)):
                # it did not arrive as sent
                damaged = StorageError(
                    f"{file.path} arrives damaged again and again; check both nodes' disks and "
                    "memory"
                )
                self._budget.spend(Cause.FILE_CHANGED, damaged)
            elif there >= offset + size:
                self._budget.refund(Cause.PIECE_IN_PART)
            else:
                in_part = DestinationRefused(
                    "the destination node takes backups or the log only in small pieces",
                    f"of most pieces of {file.name} it took a part; see its log, and whether a "
                    "proxy in front of it cuts requests",
                    HTTPStatus.BAD_GATEWAY,
                )
                self._budget.spend(Cause.PIECE_IN_PART, in_part)
            offset = there
            reached(offset)
            if found and is_taken and offset == file.size:
                return
