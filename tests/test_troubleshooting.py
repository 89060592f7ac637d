"""Each error is explained in plain words, by `wingsctl` and in the documents."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from handbook.promises import promises
from handbook.troubleshooting import entries
from tests.support.documents import PAGES
from wingsd.cli.__main__ import main
from wingsd.cli.client import Exit
from wingsd.errors import Explanation, explanations

#: First words that make a title a riddle.
RIDDLES = {"Have", "Has", "It", "So", "That", "This", "Those", "What", "Whether"}
UNPLAIN = re.compile(r"\b(anew|another one|is none|nobody|told|whoever)\b")
#: Begin like codes, and are something else: kinds of tokens, and settings of other programs.
NO_CODES = {
    "backup-download",
    "backup-points",
    "file-download",
    "file-upload",
    "internal-sftp",
    "no-new-privileges",
    "storage-pool",
}


@pytest.mark.parametrize("found", explanations().values(), ids=explanations())
def test_each_error_has_a_title_a_cause_and_a_remedy(found: Explanation) -> None:
    assert found.cause
    assert found.remedy
    assert re.fullmatch(r"[A-Z].{8,88}\.", found.title)
    assert found.title.split()[0] not in RIDDLES
    assert not UNPLAIN.search(found.text)


def test_no_two_errors_have_one_title() -> None:
    titles = [each.title for each in explanations().values()]
    assert sorted(set(titles)) == sorted(titles)


def test_the_page_of_the_site_has_each_code_with_its_status() -> None:
    page = entries()
    assert re.findall(r"^### `(.+)`$", page, re.MULTILINE) == list(explanations())
    for found in explanations().values():
        entry = page.partition(f"### `{found.code}`\n")[2].partition("\n### ")[0]
        assert (f"status {found.status}." in entry) is (found.status is not None)
        assert f"\nCause: {found.cause[:20]}" in entry


def test_each_code_that_a_document_names_is_there() -> None:
    beginnings = {code.partition("-")[0] for code in explanations() if "-" in code}
    for page in PAGES.values():
        if page.name == "CHANGELOG.md":
            continue
        named = {each for each in page.code if re.fullmatch("[a-z]+(-[a-z]+)+", each)}
        named = {each for each in named if each.partition("-")[0] in beginnings}
        named -= set(promises(page.text))
        named |= set(re.findall(r"\bwingsctl explain ([a-z-]+)", page.text))
        assert named - NO_CODES <= explanations().keys(), page.name


def explain(*words: str) -> SimpleNamespace:
    ran = CliRunner().invoke(main, ["explain", *words])
    return SimpleNamespace(status=ran.exit_code, text=ran.output)


def test_an_error_is_explained_by_its_code() -> None:
    found = explanations()["checksum-mismatch"]
    assert explain("checksum-mismatch") == SimpleNamespace(status=0, text=f"{found.text}\n")
    shown = json.loads(explain("checksum-mismatch", "--json").text)
    assert shown == found._asdict()
    assert shown["title"] == "The data received is not the data sent."


def test_all_codes_are_listed_with_their_titles() -> None:
    lines = explain().text.splitlines()
    pairs = [re.split(r"  +", line, maxsplit=1) for line in lines]
    assert pairs == [[each.code, each.title] for each in explanations().values()]
    assert json.loads(explain("--json").text) == [
        each._asdict() for each in explanations().values()
    ]


def test_an_unknown_code_is_answered_with_those_that_are_like_it() -> None:
    ran = explain("checksum-mismach")
    assert ran.status == Exit.UNKNOWN
    assert "no error has the code checksum-mismach" in ran.text
    assert "checksum-mismatch" in ran.text
