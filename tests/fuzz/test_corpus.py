"""The inputs that the fuzzer found, and those it begins with, once through their targets.

`make fuzz` goes on from there; see fuzz/__init__.py.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import fuzz

CORPUS = Path(fuzz.__file__).parent / "corpus"
#: Bytes, of all inputs that are kept.
CORPUS_MAX = 200 * 1024


@pytest.mark.promise(
    "answers-are-bounded",
    "archive-stays-inside-the-server",
    "configuration-errors-are-named",
    "console-needs-a-token",
    "corrupt-upload-fails",
    "egg-files-are-rewritten-or-left",
    "files-stay-inside-the-server",
    "move-requests-are-bounded",
    "parsers-are-fuzzed",
    "request-bodies-are-bounded",
    "sftp-survives-any-bytes",
    "url-download-is-whole-or-nothing",
    "user-archive-process-is-confined",
)
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_nothing_is_found_in_what_was_tried_before(target: str) -> None:
    module = import_module(f"fuzz.{target}")
    seeds = list(module.seeds())
    kept = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    assert seeds
    assert kept
    for data in [*seeds, *kept]:
        module.one(data)


def test_the_corpus_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(fuzz.TARGETS)
    assert sum(path.stat().st_size for path in files) <= CORPUS_MAX
