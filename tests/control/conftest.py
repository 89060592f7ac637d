"""What the tests of this room share."""

from tests.byhand.ends import ends
from tests.control.operator import desk

__all__ = ["desk", "ends"]
