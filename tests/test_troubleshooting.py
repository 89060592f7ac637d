"""docs/troubleshooting.md has every message there is, and none that there is not."""

from __future__ import annotations

import re

import pytest

from handbook.messages import Message, is_about, told, written
from tests.support.documents import page

PAGE = page("docs/troubleshooting.md")
WRITTEN = written()
#: Headings and first cells that are messages. The ones without code are chapters.
ENTRIES = re.findall(r"^(?:### |\| )`([^`]+)`(?: \||$)", PAGE.text, re.MULTILINE)


def test_troubleshooting_has_many_entries() -> None:
    assert len(ENTRIES) > 200
    assert len(told()) > 200


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_is_something_that_the_code_says(entry: str) -> None:
    assert any(is_about(entry, text) for text in WRITTEN)


@pytest.mark.parametrize("message", told(), ids=lambda message: message.place)
def test_each_message_of_the_code_has_an_entry(message: Message) -> None:
    assert any(is_about(entry, message.text) for entry in PAGE.code), message.text


def test_no_entry_stands_there_twice_in_one_chapter() -> None:
    for chapter in PAGE.text.split("\n## "):
        found = re.findall(r"^(?:### |\| )`([^`]+)`", chapter, re.MULTILINE)
        assert sorted(set(found)) == sorted(found)
