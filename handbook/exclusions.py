"""The table of operations on one server that exclude each other, from the code."""

from __future__ import annotations

from wingsd.servers.operations import EXCLUSIONS, Exclusion, Operation, refusal

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
    """Return a row for each operation under way, and a list of the texts of refusals."""
    requested = list(next(iter(EXCLUSIONS.values())))
    head = ["under way", *map(_name, requested)]
    rows = [
        [f"**{_name(running)}**", *(_cell(answers[each]) for each in requested)]
        for running, answers in EXCLUSIONS.items()
    ]
    table = "\n".join(_row(cells) for cells in (head, ["---"] * len(head), *rows))
    return f"{table}\n\n{_texts()}"


def _texts() -> str:
    lines = ["| under way | `error` of the 409 |", "|---|---|"]
    by_texts: dict[str, list[str]] = {}
    for running in EXCLUSIONS:
        by_texts.setdefault(_texts_of(running), []).append(_name(running))
    lines += [f"| {', '.join(names)} | {texts} |" for texts, names in by_texts.items() if texts]
    return "\n".join(lines)


def _texts_of(running: Operation) -> str:
    refused = (Exclusion.REFUSED, Exclusion.ENDS)
    asked = [each for each, answer in EXCLUSIONS[running].items() if answer in refused]
    return ", ".join(dict.fromkeys(f"`{refusal(running, each)}`" for each in asked))


def _name(operation: Operation) -> str:
    return _NAMES.get(operation, operation.value)


def _cell(answer: Exclusion) -> str:
    return "" if answer is Exclusion.ALLOWED else answer.value


def _row(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
