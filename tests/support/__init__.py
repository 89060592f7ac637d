"""Public fakes of what surrounds wingsd, for its own tests, its demo, and other people's tests."""

from tests.support.environment import FakeContainers, FakeProcess
from tests.support.faults import Answer, Drop, Fault, Hang
from tests.support.panel import Call, Node, NodeError, Panel
from tests.support.settings import process_configuration, server_settings
from tests.support.workers import SynchronousWorkers

__all__ = [
    "Answer",
    "Call",
    "Drop",
    "FakeContainers",
    "FakeProcess",
    "Fault",
    "Hang",
    "Node",
    "NodeError",
    "Panel",
    "SynchronousWorkers",
    "process_configuration",
    "server_settings",
]
