"""What the tests of this room share."""

from tests.control.operators import operator
from tests.support.node_in_process import nodes

__all__ = ["nodes", "operator"]
