"""Moves over lines that lose packets and are slow, and over one that is dead for long."""
