"""How Sphinx makes the site of these pages: `make docs`."""

from typing import Any

from handbook.made import HOME
from handbook.promises import DOCUMENTS, listing, promises, proofs
from handbook.troubleshooting import entries
from wingsd import __version__

project = "wingsd"
version = release = __version__
language = "en"

extensions = ["myst_parser"]
exclude_patterns = ["benchmarks"]
# As deep as the keys of the configuration and the codes of troubleshooting.
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "wingsd"
html_copy_source = False
html_show_copyright = False


def add_entries(_app: object, name: str, source: list[str]) -> None:
    """Add the explanations of all errors, which are in their classes, to the page about them."""
    if name == "troubleshooting":
        source[0] = f"{source[0]}\n{entries()}"


def add_tests(_app: object, name: str, source: list[str]) -> None:
    """Add the tests that prove the promises of a page."""
    for document, page in DOCUMENTS.items():
        if page == name:
            ids = promises((HOME / document).read_text())
            source[0] = f"{source[0]}\n{listing(ids, proofs(HOME))}"


def setup(app: Any) -> None:
    """Register what Sphinx calls for each page."""
    app.connect("source-read", add_entries)
    app.connect("source-read", add_tests)
