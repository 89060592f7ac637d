"""The client of the Panel that the tests here use."""

from tests.panel.client_harness import harness

__all__ = ["harness"]
