"""docs/troubleshooting.md has every message there is, and none that there is not."""

from __future__ import annotations

import re

from handbook.messages import is_about, told, written
from tests.support.documents import page

PAGE = page("docs/troubleshooting.md")
#: Headings and first cells that are messages. The ones without code are chapters.
ENTRIES = re.findall(r"^(?:### |\| )`([^`]+)`(?: \||$)", PAGE.text, re.MULTILINE)


def test_troubleshooting_has_many_entries() -> None:
    assert len(ENTRIES) > 200
    assert len(told()) > 200


def test_each_entry_is_something_that_the_code_says() -> None:
    texts = written()
    assert not [e for e in ENTRIES if e not in texts and not any(is_about(e, t) for t in texts)]


def test_each_message_of_the_code_has_an_entry() -> None:
    assert not [
        message
        for message in told()
        if not any(is_about(entry, message.text) for entry in PAGE.code)
    ]


def test_no_entry_stands_there_twice_in_one_chapter() -> None:
    for chapter in PAGE.text.split("\n## "):
        found = re.findall(r"^(?:### |\| )`([^`]+)`", chapter, re.MULTILINE)
        assert sorted(set(found)) == sorted(found)
