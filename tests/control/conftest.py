"""What the tests of this room share."""

from tests.byhand.station import ends
from tests.control.operator import desk

__all__ = ["desk", "ends"]
