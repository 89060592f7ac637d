"""What the documents name and link to is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from handbook.keys import sections
from tests.support.documents import HOME, PAGES, Page
from wingsd.api.routes import CALLS
from wingsd.config import APPLIED, UNUSED, UNUSED_BY_DEFAULT

TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(test_\w+))?")
#: Directories whose files documents name, and packages in `wingsd/` that they name without it.
TOPS = "bench|debian|demo|docs|etc|fuzz|handbook|man|tests|tools|twisted|wingsd"
PACKAGES = "|".join(path.parent.name for path in HOME.glob("wingsd/*/__init__.py"))
FILE = re.compile(rf"(?:{TOPS})(?:/[\w.-]+)+/?")
MODULE = re.compile(rf"(?<![\w/.-])(?:{PACKAGES})/\w+(?:/\w+)*(?:\.py)?(?![\w/])")

#: Of maps of sections the name without a star is a key, too.
KEYS = {section.path.removesuffix(".*") for section in sections()} | {
    key.path for section in sections() for key in section.keys
}
SECTIONS = "|".join(key for key in KEYS if key and "." not in key)
KEY = re.compile(rf"(?:{SECTIONS})(?:\.\w+)+")
#: These look like keys: a package, permissions of a Panel's users, and a section of keys that are
#: not used here.
NO_KEYS = {
    "control.start",
    "control.stop",
    "control.restart",
    "control.console",
    "control.py",
    "docker.io",
    "metrics.py",
    "system.sftp",
}


def test_every_test_that_a_document_names_is_there() -> None:
    for page in PAGES.values():
        for file, name in TEST.findall(" ".join(page.code)):
            text = (HOME / file).read_text()
            assert not name or f"def {name}(" in text, f"{page.name}: {file}::{name}"


def test_the_page_about_systemd_names_its_tests() -> None:
    assert TEST.search(PAGES["docs/systemd.md"].text)


def test_calls_of_calagopus_that_are_said_not_to_be_there_are_not() -> None:
    _, _, rest = PAGES["docs/families.md"].text.partition("\n### Not there with Calagopus\n")
    section, _, _ = rest.partition("\n### ")
    named = re.findall(r"`(?:(\w+) )?(/api/[^`]+)`", section)
    assert len(named) > 20
    served = {
        (method, re.sub(r"{\w+}", "{}", path)) for path, calls in CALLS.items() for method in calls
    }
    there = [
        (method, path)
        for method, path in named
        if (method or "GET", re.sub(r"{\w+}", "{}", path)) in served
    ]
    assert there == []


def test_every_file_that_a_document_names_is_there() -> None:
    for page in PAGES.values():
        for name in filter(FILE.fullmatch, page.code):
            assert (HOME / name).exists(), f"{page.name}: {name}"


def test_every_module_that_a_document_names_is_there() -> None:
    for page in PAGES.values():
        shown = [*page.code, *(block.code for block in page.blocks if block.language == "text")]
        for name in MODULE.findall("\n".join(shown)):
            path = HOME / "wingsd" / name
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name}: {name}"


def test_every_key_that_a_document_names_is_one() -> None:
    for page in PAGES.values():
        named = {name for name in page.code if KEY.fullmatch(name)}
        # Documents also say which keys of the families are not used.
        assert named - NO_KEYS <= KEYS | UNUSED | UNUSED_BY_DEFAULT.keys(), page.name


def test_the_keys_that_a_reload_applies_are_those_of_the_table() -> None:
    _, _, rest = PAGES["docs/operating.md"].text.partition("\n### Reload the configuration\n")
    section, _, _ = rest.partition("\n### ")
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    assert {key for cell in cells for key in re.findall("`(.+?)`", cell)} == APPLIED


def links() -> Iterator[tuple[Page, str]]:
    return ((page, link) for page in PAGES.values() for link in page.links)


def test_links_within_lead_somewhere() -> None:
    by_path = {page.path: page for page in PAGES.values()}
    for page, link in links():
        path, _, anchor = link.partition("#")
        if urlsplit(link).scheme:
            continue
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(HOME), f"{page.name}: {link}"
        found = by_path.get(target) or Page(target)
        assert not anchor or anchor in found.anchors, f"{page.name}: {link}"


def test_links_to_the_outside_have_the_form_of_such() -> None:
    for page, link in links():
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", f"{page.name}: {link}"
            host = r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}"
            assert re.fullmatch(host, parts.netloc), f"{page.name}: {link}"


@pytest.mark.parametrize("entry", ["README.md", "docs/index.md"])
def test_every_page_can_be_found_from_the_entry(entry: str) -> None:
    listed = "\n".join([*PAGES[entry].links, *(block.code for block in PAGES[entry].blocks)])
    for name in PAGES.keys() - {"docs/index.md", "docs/security.md"}:
        if name.startswith("docs/") and name.count("/") == 1:
            stem = name.removeprefix("docs/").removesuffix(".md")
            assert re.search(rf"^(?:docs/)?{stem}(?:\.md)?$", listed, re.MULTILINE), name


def test_the_page_of_architecture_lists_all_decisions() -> None:
    listed = {link for link in PAGES["docs/architecture.md"].links if "decisions/" in link}
    assert {f"docs/{link}" for link in listed} == {name for name in PAGES if "/decisions/" in name}
