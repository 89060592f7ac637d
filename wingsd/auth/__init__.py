"""Tokens and origins: who may call this node."""
