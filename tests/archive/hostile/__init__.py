"""A corpus of hostile archives, each with what must become of it."""

from tests.archive.hostile import headers, kinds, links, names, streams
from tests.archive.hostile.case import Case

__all__ = ["CORPUS", "Case"]

CORPUS: list[Case] = [
    *names.CASES,
    *links.CASES,
    *kinds.CASES,
    *headers.CASES,
    *streams.CASES,
]
