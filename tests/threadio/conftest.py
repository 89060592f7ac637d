"""Fixtures of the tests of streams between threads and the reactor."""

from tests.support.fixtures import workers

__all__ = ["workers"]
