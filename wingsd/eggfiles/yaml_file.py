"""YAML files: comments, order, quotes and anchors are kept by ruamel.yaml.

Most servers read YAML 1.1, where `yes` is a boolean; ruamel.yaml reads 1.2, where it is a text. So
texts are written in a way that both understand, and an unquoted `yes` is taken for a boolean.
"""

from __future__ import annotations

import io
import re
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import (
    DoubleQuotedScalarString,
    ScalarString,
    SingleQuotedScalarString,
)

from wingsd.eggfiles.nested import NestedFile
from wingsd.eggfiles.refused import Refused
from wingsd.eggfiles.scalars import Scalar

__all__ = ["YamlFile"]

_NEVER_FOLD = 1 << 20
_KEY = r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1"
_MAP_BELOW = re.compile(_KEY + r"( +)[^\s#-]", re.MULTILINE)
_LIST_BELOW = re.compile(_KEY + r"( *)- ", re.MULTILINE)
_EMPTY = re.compile(r"(?:[ \t]*(?:#[^\n]*|---[ \t]*)?(?:\n|\Z))*")
_RESOLVER: Any = yaml.resolver.Resolver()
_TEXT = "tag:yaml.org,2002:str"
_BOOLEAN = "tag:yaml.org,2002:bool"
_YES = frozenset(("yes", "on", "true"))


class YamlFile(NestedFile):
    """A YAML file of one document. Raises Refused for what is no YAML."""

    def __init__(self, source: str) -> None:
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = _NEVER_FOLD
        _indent_as(self._yaml, source)
        self._is_empty = _EMPTY.fullmatch(source) is not None
        try:
            root = {} if self._is_empty else self._yaml.load(source)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}: " if mark else ""
            raise Refused(f"it is not YAML: {where}{error.problem or error.context}") from error
        except YAMLError as error:
            raise Refused(f"it is not YAML: {error}") from error
        super().__init__(root, source)

    def plain(self, found: object) -> object:
        """Return the value as YAML 1.1 has it."""
        if isinstance(found, ScalarString):
            return str(found)
        if isinstance(found, str):
            return found.lower() in _YES if _kind(found) == _BOOLEAN else found
        if isinstance(found, bool):
            return found
        if isinstance(found, int):
            return int(found)
        return float(found) if isinstance(found, float) else found

    def scalar(self, new: Scalar, found: object) -> object:
        """Return the value in the quotes it had, or in some where it needs them."""
        if not isinstance(new, str):
            return new
        if isinstance(found, DoubleQuotedScalarString | SingleQuotedScalarString):
            return type(found)(new)
        return new if _kind(new) == _TEXT else SingleQuotedScalarString(new)

    def dump(self) -> str:
        """Return the text; what an empty file has in comments stays above it."""
        out = io.StringIO()
        self._yaml.dump(self.root, out)
        if not self._is_empty:
            return out.getvalue()
        head = self.source if not self.source or self.source.endswith("\n") else self.source + "\n"
        return head + out.getvalue()


def _kind(text: str) -> str:
    """Return the tag that YAML 1.1 gives to an unquoted text."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))


def _indent_as(writer: YAML, source: str) -> None:
    below = _MAP_BELOW.search(source)
    dash = _LIST_BELOW.search(source)
    offset = len(dash[2]) if dash else 0
    writer.indent(mapping=len(below[2]) if below else 2, sequence=offset + 2, offset=offset)
