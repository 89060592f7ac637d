"""The queue of reports that the tests here use."""

from tests.callbacks.queue_harness import harness

__all__ = ["harness"]
