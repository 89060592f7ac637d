"""Public fakes of what surrounds wingsd, for its own tests, its demo, and other people's tests."""

from wingsd.testing.environment import FakeEnvironment, FakeProcess
from wingsd.testing.faults import Answer, Drop, Fault, Hang
from wingsd.testing.panel import Call, Node, NodeError, Panel
from wingsd.testing.settings import process_configuration, server_settings
from wingsd.testing.workers import SynchronousWorkers

__all__ = [
    "Answer",
    "Call",
    "Drop",
    "FakeEnvironment",
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
