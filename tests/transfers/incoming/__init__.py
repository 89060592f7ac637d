"""Tests of moves to this node."""
