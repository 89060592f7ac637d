"""Reading ahead in a thread: order, bounds, errors, and leaving early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from wingsd.archive.pipeline import read_ahead

PATIENCE = 60  # seconds after which a test that hangs fails instead


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


class Counted:
    """Blocks that tell how many were asked for."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = iter(blocks)
        self.given = 0
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = next(self.blocks)
        with self.changed:
            self.given += 1
            self.changed.notify_all()
        return block

    def wait(self, until: Callable[[int], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: until(self.given), PATIENCE)


class Stuck:
    """Blocks that do not come until aborted, as from a silent network."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.aborted = threading.Event()
        self.aborts = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.asked.set()
        assert self.aborted.wait(PATIENCE)
        raise ConnectionError("aborted")

    def abort(self) -> None:
        self.aborts += 1
        self.aborted.set()


def test_blocks_come_in_order_from_another_thread() -> None:
    blocks = [b"%d" % n for n in range(5000)]
    seen = set()

    def watched() -> Iterator[bytes]:
        for block in blocks:
            seen.add(threading.current_thread().name)
            yield block

    with read_ahead(watched(), 1000, "a-stage") as ahead:
        assert list(ahead) == blocks
        assert next(ahead, None) is None
    assert seen == {"a-stage"}
    assert not threads_named("a-stage")


def test_what_is_queued_is_bounded_by_bytes() -> None:
    source = Counted([b"x" * 10] * 100)
    with read_ahead(source, 35, "bounded") as ahead:
        source.wait(lambda given: given == 4)  # three queued, one in hand
        assert next(ahead) == b"x" * 10
        source.wait(lambda given: given == 5)
        assert sum(map(len, ahead)) == 990


def test_an_error_comes_after_the_blocks_before_it_and_stays() -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        raise LookupError("broken")

    with read_ahead(failing(), 100, "failing") as ahead:
        assert next(ahead) == b"first"
        for _ in range(2):
            with pytest.raises(LookupError, match="broken"):
                next(ahead)


def test_leaving_early_wakes_a_thread_that_waits_for_room() -> None:
    source = Counted([b"x" * 10] * 100)
    with read_ahead(source, 10, "full"):
        source.wait(lambda given: given == 2)
    assert not threads_named("full")
    assert source.given == 2


def test_leaving_early_aborts_a_thread_that_waits_for_its_source() -> None:
    source = Stuck()
    with read_ahead(source, 10, "stuck", abort=source.abort):
        assert source.asked.wait(PATIENCE)
    assert source.aborts == 1
    assert not threads_named("stuck")
