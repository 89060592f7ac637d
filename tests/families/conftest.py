"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.families.departures import Departures
from tests.families.endpoint import Endpoint
from tests.families.nodes import FamilyNode, SentPart
from tests.families.receptions import Receptions
from tests.support.reactor import reactor
from tests.support.receiver import ReceiverHarness
from wingsd.threadio import Workers

pytest.register_assert_rewrite("tests.families.receiving", "tests.families.sending")


@pytest.fixture
def receptions(tmp_path: Path) -> Iterator[Receptions]:
    """A node that receives what it is handed."""
    made = Receptions(tmp_path)
    yield made
    made.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Threads for all that blocks."""
    pool = Workers(reactor, "test", 4)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def endpoint_of(tmp_path: Path, workers: Workers) -> Iterator[Callable[[str], Endpoint]]:
    """Makes the node of a family."""
    houses: list[ReceiverHarness] = []

    def make(family: str) -> Endpoint:
        receiver = ReceiverHarness(
            tmp_path / str(len(houses)), workers, durable=False, family=family
        )
        houses.append(receiver)
        return Endpoint(receiver, family)

    yield make
    for receiver in houses:
        receiver.store.close()
        receiver.staging.close()


@pytest.fixture
def depart(tmp_path: Path, workers: Workers) -> Iterator[Callable[..., Departures]]:
    """Makes a source and a destination, which is a node of the family."""
    made: list[Departures] = []

    def make(
        family: str,
        line: Callable[[SentPart], SentPart | None] = lambda part: part,
        *,
        breaks: bool = False,
        rate: int = 0,
    ) -> Departures:
        directory = tmp_path / f"source-{len(made)}"
        directory.mkdir()
        destination = FamilyNode(family, reactor, line, breaks=breaks)
        made.append(Departures(directory, workers, destination, family, rate))
        return made[-1]

    yield make
    for each in made:
        pytest_twisted.blockon(Deferred.fromCoroutine(each.close()))
