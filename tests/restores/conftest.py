"""The node that the tests of restores share."""

from tests.restores.node import restoring

__all__ = ["restoring"]
