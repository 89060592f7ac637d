"""The promises of the documents, and the tests that prove them.

A document names a promise by its id in brackets, `[`uploads-resume`]`. A test carries the ids of
the promises that it proves: `@pytest.mark.promise("uploads-resume")`, or, where a whole module
proves one, `pytestmark = pytest.mark.promise("uploads-resume")`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

__all__ = ["DOCUMENTS", "Tests", "listing", "promises", "proofs"]

#: The documents with promises, and the pages of the site that show them.
DOCUMENTS = {"docs/reliability.md": "reliability", "SECURITY.md": "security"}
_ID = re.compile(r"\[`([a-z0-9]+(?:-[a-z0-9]+)+)`\](?![(:])")

#: The tests of a promise: names by file; no name where the whole module proves it.
Tests = dict[str, list[str]]


def promises(document: str) -> list[str]:
    """Return the ids of the promises in a document's text, in their order."""
    return _ID.findall(document)


def proofs(home: Path) -> dict[str, Tests]:
    """Return the tests of each promise in the tree at `home`, by its id.

    Raises `ValueError` for a marker whose arguments are not literals.
    """
    found: dict[str, Tests] = {}
    for path in sorted((home / "tests").rglob("*.py")):
        text = path.read_text()
        if ".promise(" not in text:
            continue
        for name, ids in _marked(ast.parse(text)):
            for each in ids:
                names = found.setdefault(each, {}).setdefault(str(path.relative_to(home)), [])
                if name:
                    names.append(name)
                else:
                    names.clear()
    return found


def listing(ids: Iterable[str], proved: Mapping[str, Tests]) -> str:
    """Return a chapter with the tests of each promise, to which the ids in the page become links.

    Raises `LookupError` for a promise without tests.
    """
    parts = ["## Tests of each promise"]
    for each in ids:
        files = "\n".join(
            f"- `{file}`" + ("".join(f"\n  - `{name}`" for name in names))
            for file, names in proved[each].items()
        )
        # The reference makes a link of the id in the text, which has no address there.
        parts.append(f"({each})=\n**{each}**\n\n{files}\n\n[`{each}`]: #{each}")
    return "\n\n".join(parts) + "\n"


def _marked(module: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each marked test with its ids, and at the end "" with the module's."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                if ids := _ids(decorator):
                    yield node.name, ids
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            marks = statement.value
            for each in marks.elts if isinstance(marks, ast.List) else [marks]:
                if ids := _ids(each):
                    yield "", ids


def _ids(mark: ast.expr) -> list[str]:
    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
        return [ast.literal_eval(argument) for argument in mark.args]
    return []
