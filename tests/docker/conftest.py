"""Fixtures of the tests of Docker."""

from tests.support.fixtures import workers

__all__ = ["workers"]
