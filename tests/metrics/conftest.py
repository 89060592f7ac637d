"""What the tests of this room share."""

from tests.promtool import promtool

__all__ = ["promtool"]
