"""Failures are counted by the names of their classes, and by no others."""

from __future__ import annotations

import re

import pytest

from wingsd import errors
from wingsd.errors import ChecksumMismatch, PanelUnreachable, StorageError, WingsdError
from wingsd.metrics.recorder import REASONS, UNFORESEEN, reason


def every_class() -> list[type[WingsdError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [each for each in found if issubclass(each, WingsdError)]


@pytest.mark.parametrize("kind", every_class())
def test_every_class_of_the_tree_has_a_name(kind: type[WingsdError]) -> None:
    error = WingsdError.__new__(kind)
    assert reason(error) in REASONS
    assert re.fullmatch("[a-z_]+", reason(error))


def test_no_two_classes_have_the_same() -> None:
    assert len(set(REASONS)) == len(REASONS) == len(every_class())


def test_the_names_are_those_of_the_classes() -> None:
    assert reason(ChecksumMismatch("a", "b")) == "checksum_mismatch"
    assert reason(PanelUnreachable("gone")) == "panel_unreachable"


def test_what_nobody_foresaw_has_one_name() -> None:
    assert reason(RuntimeError("a mistake")) == reason(WingsdError("a mistake")) == UNFORESEEN


def test_a_class_of_somebody_else_is_counted_as_what_it_is() -> None:
    disk = type("FullFloppy", (StorageError,), {})
    assert reason(disk("full")) == "storage_error"
