"""Fixtures of the tests of moves."""

from __future__ import annotations

from tests.transfers.incoming.moving_node import node, nodes, source
from tests.transfers.incoming.running_node import running_nodes

__all__ = ["node", "nodes", "running_nodes", "source"]
