"""Finds the messages of wingsd in its code: errors, log lines and lines of the console.

Variable parts of a message are written as `…`. `told` finds messages by the calls that emit them;
`written` finds all texts, since parts of a message may be anywhere.
"""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

import wingsd

__all__ = ["Message", "is_about", "told", "written"]

VARIES = "…"
#: With fewer words, a part of a message could be of any.
ENOUGH_WORDS = 3
_HOME = Path(wingsd.__file__).parent
#: Errors that become an answer, a line in a log or the last words of a command.
_ROOTS = frozenset(
    {"ConfigError", "InvalidData", "InvalidField", "Refused", "SystemExit", "WingsdError"}
)
#: What is called with a line for the log, for the console, or for both.
_TELLS = frozenset({"_note", "_tell", "_warn", "critical", "error", "failure", "say", "warn"})
_FIELD = re.compile(r"\{[^{}]*\}")
#: A line of the log begins with the server that it is about.
_ABOUT = re.compile(rf"^{VARIES}: ")


@attrs.frozen
class Message:
    """A message, and its place in the code."""

    text: str
    place: str


def told() -> tuple[Message, ...]:
    """Return every message of an error, a log line, a console line or an exiting command."""
    return _found()[0]


def written() -> frozenset[str]:
    """Return all texts in the code."""
    return _found()[1]


def is_about(entry: str, message: str) -> bool:
    """Return whether `entry` is the message, or a part of it that is long enough."""
    words = entry.strip(f"{VARIES}: ")
    return entry == message or (len(words.split()) >= ENOUGH_WORDS and words in message)


@attrs.frozen
class _File:
    """What a file has of interest, read in one pass over its tree."""

    path: Path
    classes: list[ast.ClassDef]
    #: Each call and each yield, with the name of the class that it is in.
    emitters: list[tuple[str, ast.Call | ast.Yield]]
    texts: set[str]


@cache
def _found() -> tuple[tuple[Message, ...], frozenset[str]]:
    gc.disable()  # Else every collection visits half a million nodes, of which all are in use.
    try:
        files = [_read(path) for path in _files()]
        errors = _errors(files)
        messages = tuple(message for file in files for message in _told_in(file, errors))
    finally:
        _tree.cache_clear()
        gc.enable()
    texts = set[str]().union(*(file.texts for file in files))
    return messages, frozenset(_ABOUT.sub("", text) for text in texts if text)


def _read(path: Path) -> _File:
    file = _File(path, [], [], set())
    left: list[tuple[str, ast.AST]] = [("", _tree(path))]
    while left:
        owner, node = left.pop()
        if isinstance(node, ast.ClassDef):
            file.classes.append(node)
            owner = node.name
        elif isinstance(node, ast.Call | ast.Yield):
            file.emitters.append((owner, node))
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            file.texts.add(_text(node))
        left += [(owner, child) for child in ast.iter_child_nodes(node)]
    return file


def _files() -> list[Path]:
    return [path for path in sorted(_HOME.rglob("*.py")) if "testing" not in path.parts]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _errors(files: list[_File]) -> set[str]:
    """Return the names of the error classes with messages, and of their subclasses."""
    classes = [each for file in files for each in file.classes]
    found = set(_ROOTS)
    while True:
        more = {each.name for each in classes if found & {_name(base) for base in each.bases}}
        if more <= found:
            return found
        found |= more


def _told_in(file: _File, errors: set[str]) -> Iterator[Message]:
    for owner, node in file.emitters:
        texts = []
        if isinstance(node, ast.Call) and _tells(node, owner, errors):
            texts = [_text(argument, file.path) for argument in node.args]
        elif isinstance(node, ast.Yield) and file.path.match("privileges/rules.py"):
            texts = [_text(node.value)]
        text = _ABOUT.sub("", ": ".join(filter(None, texts)))
        if text.strip(f"{VARIES}: "):
            yield Message(text, f"{file.path.relative_to(_HOME.parent)}:{node.lineno}")


def _tells(call: ast.Call, owner: str, errors: set[str]) -> bool:
    name = _name(call.func)
    if name in errors:
        return True
    if not isinstance(call.func, ast.Attribute):
        return name == "cls" and owner in errors
    of = _name(call.func.value)
    # `BadRequest.order()`, `super().__init__(…)` of an error, `log.warn(…)`.
    return of in errors or (of == "super" and owner in errors) or name in _TELLS


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=called):
            return _name(called)
    return ""


def _text(node: ast.AST | None, path: Path | None = None) -> str:
    """Return the text of an expression, empty for any other.

    With `path`, the file that it is in, a name stands for the constant that it is of that file.
    """
    text = ""
    match node:
        case ast.Constant(value=str(value)):
            text = _FIELD.sub(VARIES, value)
        case ast.JoinedStr(values=values):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else VARIES for part in values
            )
        case ast.Name(id=name) if path is not None:
            text = _constants(path).get(name, "")
    return " ".join(text.split())


@cache
def _constants(path: Path) -> dict[str, str]:
    """Return the named texts of a file, including those that it imports from wingsd."""
    found = {}
    for node in _tree(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _text(value):
                found[name] = _text(value)
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("wingsd."):
                there = _HOME.parent.joinpath(*module.split(".")).with_suffix(".py")
                known = _constants(there) if there.exists() else {}
                found |= {each.name: known[each.name] for each in names if each.name in known}
    return found
