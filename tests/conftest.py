"""Fixtures of all tests."""

from __future__ import annotations

import gc
import inspect
import os
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import chain, groupby, islice
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import settings

from tests.support.database import opened
from tests.support.docker_engine import busybox, engine
from tests.support.logged_errors import logged
from wingsd.app.process import raise_limit
from wingsd.statedb import Store

__all__ = ["busybox", "engine", "logged", "store"]

# The same examples in every run. `make fuzz` searches at random, by the profile "random".
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# The package is built with a proxy that is not there.
os.environ["no_proxy"] = "127.0.0.1"

#: Directories of tests are made in `MEMORY` if it has `ROOM` bytes free. On a disk, tests wait for
#: it half of their time.
MEMORY, ROOM = "/dev/shm", 2 << 30

#: Directories whose tests take long: they run whole daemons, or programs that write.
LONG = ("daemon", "unchanged", "docker", "power", "quota_vm")

raise_limit()  # as the daemon does: some tests open a thousand connections


def pytest_configure() -> None:
    """Make temporary directories in memory, unless PYTEST_DEBUG_TEMPROOT names another place."""
    with suppress(FileNotFoundError):
        disk = os.statvfs(MEMORY)
        if disk.f_bavail * disk.f_frsize >= ROOM:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Have pytest-twisted run every asynchronous test in the reactor."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        pytest_twisted.ensureDeferred(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile: all that is made is kept, and looked at in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one process run all tests with a Docker engine, and each begin with the long ones.

    Only one test with an engine runs at a time: so none waits for another. Each process gets as
    many tests, in their order, until some have none left and take from others' ends. If long ones
    were there, the last of them would run alone.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    others = shares[1:] or shares
    short = []
    for number, (_path, group) in enumerate(groupby(items, key=lambda item: item.path)):
        for item in group:
            if "engine" in getattr(item, "fixturenames", ()):
                shares[0].append(item)
            elif item.path.parent.name in LONG:
                others[number % len(others)].append(item)
            else:
                short.append(item)
    left, size = iter(short), -(-len(items) // processes)
    for share in shares:
        share.extend(islice(left, max(size - len(share), 0)))
    items[:] = chain.from_iterable(shares)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only root can do for other users: the package is built by one without rights."""
    if os.geteuid() != 0 and item.get_closest_marker("root") is not None:
        pytest.skip("needs root")


@pytest.fixture(scope="module", autouse=True)
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exclude existing objects from garbage collection during this module's tests.

    Frozen objects are never collected, so no test may leave an open file behind.
    """
    gc.freeze()
    before = _open_below(tmp_path_factory.getbasetemp())
    yield
    gc.collect()
    # A pool of threads that is stopped does not wait for those that work.
    end = time.monotonic() + 60
    while (
        left := _open_below(tmp_path_factory.getbasetemp()) - before
    ) and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    assert left == set()


def _open_below(directory: Path) -> set[str]:
    names = (_target(descriptor) for descriptor in os.listdir("/proc/self/fd"))
    return {name for name in names if name.startswith(f"{directory}/")}


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # the descriptor of the listing, or one of another thread
        return ""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = opened(Store(str(tmp_path)))
    yield made
    made.close()
