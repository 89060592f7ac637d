"""Failures are counted by labels that stay the same, whatever classes and codes are called."""

from __future__ import annotations

import re

from tests.test_errors import classes
from wingsd.errors import ChecksumMismatch, PanelUnreachable, StorageError, WingsdError
from wingsd.metrics import REASONS, UNFORESEEN, reason


def test_every_class_has_a_label() -> None:
    for kind in classes():
        error = WingsdError.__new__(kind)
        assert reason(error) in REASONS
        assert re.fullmatch("[a-z_]+", reason(error))


def test_no_label_is_there_twice() -> None:
    assert len(set(REASONS)) == len(REASONS)


def test_labels_are_those_of_previous_versions() -> None:
    assert len(REASONS) == 39
    assert reason(ChecksumMismatch("a", "b")) == "checksum_mismatch"
    assert reason(PanelUnreachable("gone")) == "panel_unreachable"


def test_an_unexpected_error_has_one_label() -> None:
    assert reason(RuntimeError("failed")) == reason(WingsdError("failed")) == UNFORESEEN


def test_a_subclass_without_a_label_is_counted_as_its_base_class() -> None:
    disk = type("FullFloppy", (StorageError,), {})
    assert reason(disk("full")) == "storage_error"
