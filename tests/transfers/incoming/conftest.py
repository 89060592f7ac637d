"""Fixtures of the tests of moves."""

from __future__ import annotations

from tests.transfers.incoming.nodes import node, nodes, running_nodes, source

__all__ = ["node", "nodes", "running_nodes", "source"]
