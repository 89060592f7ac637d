"""What the tests of this room share."""

from tests.control.operator import desk
from tests.direct_transfers.scenarios import ends

__all__ = ["desk", "ends"]
