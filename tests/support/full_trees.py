"""Trees of moves whose file cannot grow, as on a full disk."""

from __future__ import annotations

import sqlite3

import pytest

from wingsd.moves import nodes

__all__ = ["limit_trees"]

#: Pages that a file may have: the tables, and few names.
PAGES = 8


def limit_trees(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    """Have the files of trees in a directory not grow, from the next one on."""
    usual = nodes._open

    def limited(where: str | None) -> sqlite3.Connection:
        database = usual(where)
        if where == directory:
            database.execute(f"PRAGMA max_page_count={PAGES}")
        return database

    monkeypatch.setattr(nodes, "_open", limited)
    monkeypatch.setattr(nodes, "IN_MEMORY", 8)
