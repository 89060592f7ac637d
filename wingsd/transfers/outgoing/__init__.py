"""Sending a server to another node."""
