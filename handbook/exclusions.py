"""The table of operations on one server that exclude each other, from the code."""

from __future__ import annotations

from wingsd.servers.operations import EXCLUSIONS, Exclusion, Operation

__all__ = ["exclusions"]

_NAMES = {
    Operation.START: "start, restart",
    Operation.INSTALL: "install, reinstall",
    Operation.RESTORE: "restore a backup",
    Operation.TRANSFER_OUT: "transfer to another node",
    Operation.FOLLOW: "transfer while it runs",
    Operation.ORDERED: "transfer that waits",
    Operation.TRANSFER_IN: "transfer to this node",
    Operation.MOVED: "it has moved away",
    Operation.POINT: "make a point in time",
}


def exclusions() -> str:
    """Return a table with a row for each operation under way; equal rows are one."""
    requested = list(next(iter(EXCLUSIONS.values())))
    rows: dict[tuple[str, ...], list[str]] = {}
    for running, answers in EXCLUSIONS.items():
        cells = tuple(_cell(answers[each]) for each in requested)
        rows.setdefault(cells, []).append(_name(running))
    head = ["under way", *map(_name, requested)]
    lines = [[f"**{'; '.join(names)}**", *cells] for cells, names in rows.items()]
    return "\n".join(map(_row, [head, ["---"] * len(head), *lines]))


def _name(operation: Operation) -> str:
    return _NAMES.get(operation, operation.value)


def _cell(answer: Exclusion) -> str:
    return "" if answer is Exclusion.ALLOWED else answer.value


def _row(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
