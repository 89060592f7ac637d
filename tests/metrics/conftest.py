"""What the tests of this room share."""

from tests.support.promtool import promtool

__all__ = ["promtool"]
