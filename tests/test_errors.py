"""Each error has a code of its own, all are in one module, and the documents list their codes."""

from __future__ import annotations

import importlib
import pkgutil
import re

import yaml

import wingsd
from tests.support.documents import HOME
from wingsd.errors import ConfigError, InvalidData, WingsdError, error_codes


def classes() -> list[type[WingsdError]]:
    """Return every class of the tree."""
    for module in pkgutil.walk_packages(wingsd.__path__, "wingsd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[WingsdError]] = [WingsdError]
    for kind in found:
        found += [each for each in kind.__subclasses__() if each.__module__.startswith("wingsd.")]
    return found


def test_each_class_is_in_the_one_module() -> None:
    assert [kind for kind in classes() if kind.__module__ != "wingsd.errors"] == []


def test_each_class_has_a_code_of_its_own() -> None:
    assert [kind.__name__ for kind in classes() if "code" not in vars(kind)] == []
    codes = [*(kind.code for kind in classes()), ConfigError.code, InvalidData.code]
    assert sorted(set(codes)) == sorted(codes)
    assert [code for code in codes if not re.fullmatch("[a-z]+(-[a-z]+)+|[a-z]+", code)] == []


def test_the_openapi_document_lists_each_code() -> None:
    schema = yaml.safe_load((HOME / "docs/openapi.yml").read_text())["components"]["schemas"]
    codes = sorted(kind.code for kind in classes())
    assert schema["Error"]["properties"]["code"]["enum"] == codes == list(error_codes())
