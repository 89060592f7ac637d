"""Receiving a server from another node."""
