"""Egg files in every format: refused, or unchanged by a second rewrite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from fuzz.findings import Finding, fields
from wingsd.egg_files.changes import Change, NotDone
from wingsd.egg_files.child import format_of
from wingsd.panel.schemas import Replacement

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"file\0",
    b"ini\0",
    b"json\0",
    b"properties\0",
    b"toml\0",
    b"xml\0",
    b"yaml\0",
    b"a.b",
    b"a.*",
    b"a[0]",
    b"[a.b].c",
    b"regex:",
    b"{{config.api.port}}",
    b"{{server.build.default.port}}",
    b"[k='v']",
    b"true",
    b"<!DOCTYPE a [",
    b"<!ENTITY e 'x'>",
    b"<![CDATA[",
    b"<?xml version='1.0' encoding='latin-1'?>",
    b"[[a]]\n",
    b'"""',
    b"&a *a",
    b"<<: ",
    b"? ",
    b"\\u0041",
    b"\xef\xbb\xbf",
]

_NODE: dict[str, Any] = {"api": {"host": "10.0.0.1", "port": 8080}, "token": "t"}


def one(data: bytes) -> None:
    """Rewrite a file: format, path, value, condition, and then the content."""
    parser, match, value, condition, content = fields(data, 4)
    try:
        form = format_of(parser.decode())
        replacement = Replacement(
            match=match.decode(), if_value=condition.decode(), replace_with=_value(value.decode())
        )
        change = Change.from_replacement(replacement, _NODE)
    except (UnicodeDecodeError, NotDone):
        return
    try:
        once = form.rewrite(content, [change])
    except NotDone as error:
        if not str(error):
            raise Finding("it is refused without a reason") from error
        return
    # A condition that was met need not be met again, and what is found may be put in once more.
    if once.failures or change.conditional:
        return
    twice = form.rewrite(once.data, [change])
    if twice != once:
        raise Finding(f"once it is {once}, twice {twice}")


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON, but Python's own")


def seeds() -> Iterator[bytes]:
    """Yield a file of each form."""
    files = {
        b"file": (b"port=", b'"port=1"', b"port=2\nother\n"),
        b"ini": (b"s.k", b"1", b"k=0\n[s]\nk = 2 ; c\n"),
        b"json": (b"a.b[0].c", b"1", b'{"a": {"b": [{"c": 2}]}}'),
        b"properties": (b"server-port", b"25565", b"# c\nserver-port=1\\\n 2\nx:y\n"),
        b"toml": (b"a.b", b"true", b'# c\n[a]\nb = false\nc = [1, 2]\n[[d]]\ne = "f"\n'),
        b"xml": (b"a.b", b"[k='v']", b"<a><b k='u'>x</b><!-- c --></a>"),
        b"yaml": (b"a.*.c", b'"{{config.api.port}}"', b"a:\n  b: {c: 1} # c\n  d: &x {c: 2}\n"),
    }
    for parser, (match, value, content) in files.items():
        yield b"\0".join([parser, match, value, b"", content])
        yield b"\0".join([parser, match, value, b"regex:^(.)", content])
