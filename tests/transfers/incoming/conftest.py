"""Fixtures of the tests of moves."""

from __future__ import annotations

from tests.transfers.incoming.moving_node import node, nodes, source

__all__ = ["node", "nodes", "source"]
