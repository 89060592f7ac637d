"""Tests of moves from this node."""
