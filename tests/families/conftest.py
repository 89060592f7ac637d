"""Fixtures of a node, and of transfers to and from it, in each family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.families.departures import Departure
from tests.families.endpoint import Endpoint
from tests.families.nodes import FamilyNode, SentPart
from tests.families.recordings import FAMILIES
from tests.support.fixtures import workers
from tests.support.reactor import reactor
from tests.support.receiver import Receiver
from wingsd.threadio import Workers

__all__ = ["workers"]

pytest.register_assert_rewrite("tests.families.receiving", "tests.families.sending")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoint(family: str, tmp_path: Path, workers: Workers) -> Iterator[Endpoint]:
    receiver = Receiver(tmp_path / "node", workers, durable=False, family=family)
    yield Endpoint(receiver, family)
    receiver.close()


@pytest.fixture
def depart(family: str, tmp_path: Path, workers: Workers) -> Iterator[Callable[..., Departure]]:
    """Makes a source and a destination, which is a node of the family."""
    made: list[Departure] = []

    def make(
        network: Callable[[SentPart], SentPart | None] = lambda part: part,
        *,
        breaks: bool = False,
        rate: int = 0,
    ) -> Departure:
        directory = tmp_path / f"source-{len(made)}"
        directory.mkdir()
        destination = FamilyNode(family, reactor, network, breaks=breaks)
        made.append(Departure(directory, workers, destination, family, rate))
        return made[-1]

    yield make
    for each in made:
        pytest_twisted.blockon(Deferred.fromCoroutine(each.close()))
