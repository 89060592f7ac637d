"""Prints the state database: `python -m wingsd.statedb [--config FILE]`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

from wingsd.config import find, load
from wingsd.errors import ConfigError, StateDatabaseError
from wingsd.statedb import Store
from wingsd.util.text import escaped


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _transfers(store: Store) -> Iterator[tuple[str, ...]]:
    yield "begun (UTC)", "changed (UTC)", "server", "way", "step", "outcome", "reason"
    for entry in store.transfers():
        outcome = "under way" if entry.outcome is None else entry.outcome.value
        begun, changed = _time(entry.begun), _time(entry.changed)
        way = entry.direction.value
        yield begun, changed, entry.server, way, entry.step, outcome, entry.reason


def _reports(store: Store) -> Iterator[tuple[str, ...]]:
    yield "since (UTC)", "settled (UTC)", "server", "report", "attempts", "the Panel's last word"
    for report in store.reports():
        settled = "" if report.settled is None else _time(report.settled)
        since, attempts = _time(report.created), str(report.attempts)
        yield since, settled, report.server, report.what, attempts, report.answer


def _print(title: str, rows: Iterator[tuple[str, ...]]) -> None:
    # Reasons and answers come from other programs.
    table = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(title)
    for row in table:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())


def main(arguments: list[str] | None = None) -> None:
    """Print the transfers and the reports to the Panel in the state database."""
    parser = argparse.ArgumentParser(prog="python -m wingsd.statedb", description=main.__doc__)
    parser.add_argument("--config", help="the node's configuration, if not the daemon's usual one")
    try:
        config, _ = load(parser.parse_args(arguments).config or find())
        with closing(Store(config.system.root_directory)) as store:
            store.open(read_only=True)
            _print("Transfers", _transfers(store))
            _print("Reports to the Panel", _reports(store))
    except (ConfigError, StateDatabaseError) as error:
        raise SystemExit(f"wingsd: {error}") from error


if __name__ == "__main__":
    main()
