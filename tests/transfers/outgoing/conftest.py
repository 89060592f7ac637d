"""Fixtures of the tests of moves from this node."""

from __future__ import annotations

from tests.transfers.outgoing.moving import node, quick, sender, slow_to_settle

__all__ = ["node", "quick", "sender", "slow_to_settle"]
