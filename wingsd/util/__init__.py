"""Helpers that know nothing of servers: sockets, JSON and YAML, retries, text."""
