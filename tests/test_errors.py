"""Each error has a code of its own, which the documents explain."""

from __future__ import annotations

import importlib
import pkgutil
import re

import yaml

import wingsd
from tests.support.documents import HOME, page
from wingsd import errors
from wingsd.errors import ConfigError, InvalidData, WingsdError
from wingsd.http.error_codes import ERROR_CODES


def classes() -> list[type[WingsdError]]:
    """Return every class of the tree, those of single packages included."""
    for module in pkgutil.walk_packages(wingsd.__path__, "wingsd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[WingsdError]] = [WingsdError]
    for kind in found:
        found += [each for each in kind.__subclasses__() if each.__module__.startswith("wingsd.")]
    return found


def test_each_class_has_a_code_of_its_own() -> None:
    assert [kind.__name__ for kind in classes() if "code" not in vars(kind)] == []
    codes = [*(kind.code for kind in classes()), ConfigError.code, InvalidData.code]
    assert sorted(set(codes)) == sorted(codes)
    assert [code for code in codes if not re.fullmatch("[a-z]+(-[a-z]+)+|[a-z]+", code)] == []


def test_the_list_of_codes_is_that_of_the_classes() -> None:
    assert list(ERROR_CODES) == sorted(kind.code for kind in classes())


def test_the_tree_at_the_top_of_the_module_has_each_class_and_status() -> None:
    drawn = re.findall(r"^ {4} *(\w+) +(\d{3})\b", errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted((kind.__name__, str(int(kind.status))) for kind in classes())


def test_troubleshooting_explains_each_code_with_its_status() -> None:
    text = page("docs/troubleshooting.md").text
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}|–) \|", text, re.MULTILINE)
    statuses = {kind.code: str(int(kind.status)) for kind in classes()}
    without_answer = {kind.code: "–" for kind in (ConfigError, InvalidData)}
    assert dict(rows) == statuses | without_answer
    assert len(rows) == len(dict(rows))


def test_the_openapi_document_lists_each_code() -> None:
    schema = yaml.safe_load((HOME / "docs/openapi.yml").read_text())["components"]["schemas"]
    assert schema["Error"]["properties"]["code"]["enum"] == list(ERROR_CODES)
