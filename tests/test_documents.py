"""What the documents name and link to is there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from handbook.keys import sections
from tests.support.documents import HOME, PAGES, Page
from wingsd.config.vendors import UNUSED, UNUSED_BY_DEFAULT

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
    "docker.io",
    "system.sftp",
}

pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


@pages
def test_every_test_that_a_document_names_is_there(page: Page) -> None:
    for file, name in TEST.findall(" ".join(page.code)):
        text = (HOME / file).read_text()
        assert not name or f"def {name}(" in text, f"{file}::{name}"


@pytest.mark.parametrize(
    "name", ["SECURITY.md", "docs/privileges.md", "docs/reliability.md", "docs/systemd.md"]
)
def test_what_is_promised_has_tests(name: str) -> None:
    assert TEST.search(PAGES[name].text)


@pages
def test_every_file_that_a_document_names_is_there(page: Page) -> None:
    for name in filter(FILE.fullmatch, page.code):
        assert (HOME / name).exists(), name


@pages
def test_every_module_that_a_document_names_is_there(page: Page) -> None:
    shown = [*page.code, *(block.code for block in page.blocks if block.language == "text")]
    for name in MODULE.findall("\n".join(shown)):
        path = HOME / "wingsd" / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


@pages
def test_every_key_that_a_document_names_is_one(page: Page) -> None:
    named = {name for name in page.code if KEY.fullmatch(name)}
    # Documents also say which keys of the families are not used.
    assert named - NO_KEYS <= KEYS | UNUSED | UNUSED_BY_DEFAULT.keys()


@pages
def test_links_within_lead_somewhere(page: Page) -> None:
    for link in page.links:
        path, _, anchor = link.partition("#")
        if urlsplit(link).scheme:
            continue
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert target.is_relative_to(HOME), link
        assert not anchor or anchor in Page(target).anchors, link


@pages
def test_links_to_the_outside_have_the_form_of_such(page: Page) -> None:
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}", parts.netloc), link


@pytest.mark.parametrize("entry", ["README.md", "docs/index.md"])
def test_every_page_can_be_found_from_the_entry(entry: str) -> None:
    listed = "\n".join([*PAGES[entry].links, *(block.code for block in PAGES[entry].blocks)])
    for name in PAGES.keys() - {"docs/index.md", "docs/security.md"}:
        # The pages of a directory are in its index.
        if name.startswith("docs/") and (name.count("/") == 1 or name.endswith("/index.md")):
            stem = name.removeprefix("docs/").removesuffix(".md")
            assert re.search(rf"^(?:docs/)?{stem}(?:\.md)?$", listed, re.MULTILINE), name
