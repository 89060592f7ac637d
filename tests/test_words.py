"""The check of words, `tools/lint-words`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools/lint-words"


def found(path: Path, text: str) -> list[str]:
    """Return what is found in a text, without its path."""
    path.write_text(text)
    command = [sys.executable, str(TOOL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == (1 if done.stdout else 0)
    return [line.removeprefix(f"{path}:") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("docstring", "words"),
    [
        ("What a server uses.", "What"),
        ("Whether it runs.", "Whether"),
        ("Have it be started.", "Have"),
        ("Return the name, None where there is none.", ""),
        ("The server, and what it uses.", ""),
    ],
)
def test_a_docstring_begins_with_a_noun_or_a_verb(
    tmp_path: Path, docstring: str, words: str
) -> None:
    lines = found(tmp_path / "module.py", f'def f():\n    """{docstring}"""\n')
    assert [line.partition(":")[0] for line in lines] == (["2"] if words else [])
    assert all(f" {words!r}: " in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "begun anew",
        "Nobody stops it",
        "its name is none",
        "a later daemon",
        "the Panel is not told",
    ],
)
def test_words_that_readers_stumble_over_are_found_with_a_reason(
    tmp_path: Path, text: str
) -> None:
    for name, form in (("page.md", "One.\n\n{}.\n"), ("module.py", "x = 1\n\nlog('{}')\n")):
        (line,) = found(tmp_path / name, form.format(text))
        assert line.startswith("3: '")


def test_code_and_generated_parts_of_a_page_are_left_out(tmp_path: Path) -> None:
    page = "```\nanew\n```\n\n`anew`\n\n<!-- made: x -->\nanew\n<!-- made -->\n\nanew\n"
    (line,) = found(tmp_path / "page.md", page)
    assert line.startswith("11: ")
