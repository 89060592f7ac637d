"""A pipeline of blocks: stages that read ahead in threads, and a cursor to read exact amounts.

Hashing, inflating and writing release the interpreter lock, so stages in threads of their own
overlap on several cores. The queues between two stages are bounded in bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Blocks:
    """Takes exact numbers of bytes from an iterator of bytes blocks of any size.

    Within one block nothing is copied: views of it are returned. Every method raises EOFError
    where the stream has fewer bytes than asked for.
    """

    __slots__ = ("_at", "_blocks", "_size", "_view")

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._view = memoryview(b"")
        self._at = 0
        self._size = 0

    def at_end(self) -> bool:
        """Return whether nothing is left, after waiting for the next block if necessary."""
        while self._at == self._size:
            block = next(self._blocks, None)
            if block is None:
                return True
            self._view = memoryview(block)
            self._at = 0
            self._size = len(block)
        return False

    def ready(self, size: int) -> memoryview | None:
        """Return the next `size` bytes if the current block has all of them, else None."""
        start = self._at
        end = start + size
        if end > self._size:
            return None
        self._at = end
        return self._view[start:end]

    def take(self, size: int) -> memoryview:
        """Return exactly `size` bytes, joined if they are in several blocks."""
        start = self._at
        end = start + size
        if end <= self._size:
            self._at = end
            return self._view[start:end]
        return memoryview(b"".join(self.pieces(size)))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield exactly `size` bytes in pieces."""
        while size:
            if self.at_end():
                raise EOFError
            start = self._at
            self._at = end = min(start + size, self._size)
            size -= end - start
            yield self._view[start:end]

    def skip(self, size: int) -> None:
        """Skip `size` bytes."""
        if self._at + size <= self._size:
            self._at += size
            return
        for _ in self.pieces(size):
            pass

    def rest(self) -> Iterator[memoryview]:
        """Yield everything that is left."""
        while not self.at_end():
            start = self._at
            self._at = self._size
            yield self._view[start:]


def joined(pieces: Iterable[bytes], least: int) -> Iterator[bytes]:
    """Join pieces to blocks of at least `least` bytes: each block is one call of a compressor."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= least:
            yield b"".join(gathered)
            gathered.clear()
            size = 0
    yield b"".join(gathered)


class StageClosed(Exception):
    """A block was asked of a stage that its consumer has closed."""


@contextmanager
def read_ahead(
    blocks: Iterator[bytes], limit: int, name: str, *, abort: Callable[[], None] | None = None
) -> Iterator[ReadAhead]:
    """Run `blocks` in a thread of its own, at most `limit` bytes ahead of the consumer.

    A single block larger than `limit` still passes, alone. An error of `blocks` is raised in the
    consumer, after the blocks before it.

    The thread runs at the nice value of the one that makes it. `name` has at most 15 bytes, as
    many as the kernel shows.

    Leaving the context stops the thread and joins it. At that moment the thread may be

    - waiting for the consumer: it is woken and ends;
    - inside `next(blocks)`: `abort` is called (from the leaving thread, at most once, only if
      `blocks` has not ended) and must make that call return or raise soon. Without `abort`,
      leaving waits until `next(blocks)` returns.

    A stage after another passes the `close` of that one as `abort`. When the thread ends it closes
    `blocks` if that can be closed, so a generator's cleanup runs in that thread.
    """
    # With Twisted, which a process that only parses does without: 0.1 s less of each.
    from wingsd.threadio import Thread  # noqa: PLC0415

    stage = ReadAhead(blocks, limit, abort)
    thread = Thread(stage.run, name)
    thread.start()
    try:
        yield stage
    finally:
        stage.close()
        thread.join()


class ReadAhead:
    """The queue of one stage: `run` fills it in a thread, iterating takes from it in another."""

    def __init__(
        self, blocks: Iterator[bytes], limit: int, abort: Callable[[], None] | None
    ) -> None:
        self._blocks = blocks
        self._limit = limit
        self._abort = abort
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._drained = threading.Condition(lock)

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> bytes:
        with self._filled:
            while not self._queue:
                if self._closed:
                    raise StageClosed
                if self._error is not None:
                    raise self._error
                if self._ended:
                    raise StopIteration
                self._filled.wait()
            block = self._queue.popleft()
            self._queued -= len(block)
            self._drained.notify()
            return block

    def run(self) -> None:
        """Read until `blocks` ends or fails, or the stage is closed."""
        error = None
        try:
            for block in self._blocks:
                if not self._put(block):
                    break
        except BaseException as failure:  # handed on, never lost: the consumer raises it
            error = failure
        finally:
            self._end(error)

    def close(self) -> None:
        """Stop reading ahead; a waiting consumer gets StageClosed. May be called twice."""
        with self._filled:
            abort = None if self._ended or self._closed else self._abort
            self._closed = True
            self._queue.clear()
            self._queued = 0
            self._filled.notify_all()
            self._drained.notify_all()
        if abort is not None:
            abort()

    def _put(self, block: bytes) -> bool:
        with self._drained:
            while self._queue and self._queued + len(block) > self._limit and not self._closed:
                self._drained.wait()
            if self._closed:
                return False
            self._queue.append(block)
            self._queued += len(block)
            self._filled.notify()
            return True

    def _end(self, error: BaseException | None) -> None:
        close = getattr(self._blocks, "close", None)
        if close is not None and not isinstance(self._blocks, ReadAhead):
            try:
                close()
            except BaseException as failure:  # as above
                error = error or failure
        with self._filled:
            self._error = error
            self._ended = True
            self._filled.notify_all()
