"""What the tests of the whole daemon share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.node_process import NodeProcess
from tests.support.receiving_node import ReceivingNode
from tests.support.two_nodes import TwoNodes


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ReceivingNode]:
    """A node that is not started yet, and its Panel; both are ended in any case."""
    made = ReceivingNode(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def running(daemon: ReceivingNode) -> ReceivingNode:
    """The same, started."""
    pytest_twisted.blockon(Deferred.fromCoroutine(daemon.start()))
    return daemon


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    """Two nodes that are not started yet, and their Panel; all are ended in any case."""
    made = TwoNodes(tmp_path)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the log of each daemon of a test that has failed."""
    report = yield
    if report.failed:
        made: list[Any] = [each for each in item.funcargs.values() if hasattr(each, "__dict__")]
        for value in [*made, *(part for each in made for part in vars(each).values())]:
            if isinstance(value, NodeProcess):
                log = "\n".join([*value.past, *value.log, f"exit status: {value.status}"])
                report.sections.append((f"log of {value.directory.name}", log))
    return report
