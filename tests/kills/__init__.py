"""Crash injection: nodes are killed at named and at random points of a transfer."""
