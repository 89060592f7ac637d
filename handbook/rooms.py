"""The rooms of the house as they are: what each is for, and whom it knows.

The storeys are those that `tests/test_architecture.py` holds all imports to.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_architecture import BLOCKING, HOME, PURE, STOREYS, imports, module_path, room

__all__ = ["storeys", "table"]

_INDENT = "  "


def storeys() -> str:
    """Return the storeys as a drawing, the highest first."""
    lines = [_INDENT.join(names) for names in STOREYS]
    width = max(map(len, lines))
    floor = f"+{'-' * (width + 2)}+"
    drawn = [floor, *(f"| {line:{width}} |\n{floor}" for line in lines)]
    return "```text\n" + "\n".join(drawn) + "\n```"


def table() -> str:
    """Return a table of the rooms in the order of the storeys: a purpose, a half, and imports."""
    rows = [_row(name) for names in STOREYS for name in names]
    head = ["| room | what it is for | half | knows |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _row(name: str) -> str:
    known = ", ".join(f"`{other}`" for other in _known(name)) or "nobody"
    return f"| `{name}` | {_purpose(name)} | {_half(name)} | {known} |"


def _purpose(name: str) -> str:
    text = ast.get_docstring(ast.parse(module_path(name).read_text())) or ""
    first = text.splitlines()[0].removesuffix(".").removesuffix(". Pure")
    return first.replace("|", r"\|")


def _half(name: str) -> str:
    modules = set(_modules(name))
    halves = {"pure": set(PURE), "blocking": set(BLOCKING)}
    found = [half for half, names in halves.items() if modules & names]
    if modules - set(PURE) - set(BLOCKING):
        found.append("adapter")
    return ", ".join(found)


def _modules(name: str) -> Iterator[str]:
    """Yield the modules of a room, as they are named below `wingsd`."""
    path = module_path(name)
    files = path.parent.rglob("*.py") if path.name == "__init__.py" else [path]
    for file in files:
        parts = file.relative_to(HOME).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _known(name: str) -> list[str]:
    order = [other for names in STOREYS for other in names]
    known = {
        room(imported)
        for module in _modules(name)
        for imported in imports(module_path(module))
        if imported.startswith("wingsd.")
    }
    return [other for other in order if other in known - {name}]
