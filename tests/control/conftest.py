"""What the tests of this room share."""

from tests.control.operators import operator
from tests.direct_transfers.scenarios import ends

__all__ = ["ends", "operator"]
