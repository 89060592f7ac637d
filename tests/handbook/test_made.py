"""What is made from the code is as it would be made now."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

import wingsd
from handbook.configuration import markdown
from handbook.keys import Section, sections
from handbook.layers import folders, layers
from handbook.made import HOME, filled, made
from handbook.manpage import manpage

MADE = made()
MANPAGE = HOME / "man" / "wingsd.yml.5"


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda path: path.name)
def test_each_made_part_is_current(path: Path) -> None:
    assert path.read_text() == MADE[path], "run `python -m handbook` (or `make docs`)"


def test_some_pages_have_such_parts() -> None:
    parts = [path.name for path in MADE if "<!-- made: " in path.read_text()]
    assert parts == ["architecture.md", "configuration.md", "families.md", "http.md"]


def test_a_part_is_put_between_its_marks() -> None:
    page = "before\n<!-- made: keys -->\nold\n<!-- made -->\nafter\n"
    new = filled(page, {"keys": "new"})
    assert new == "before\n<!-- made: keys -->\n\nnew\n\n<!-- made -->\nafter\n"
    assert filled(new, {"keys": "new"}) == new


def test_a_page_that_asks_for_what_is_not_made() -> None:
    with pytest.raises(LookupError):
        filled("<!-- made: nothing -->\n<!-- made -->\n", {"keys": ""})


def test_the_page_has_each_key_with_all_that_is_known_of_it() -> None:
    page = markdown(sections())
    for section in sections():
        for key in section.keys:
            assert f"### `{key.path}`\n" in page
    assert ("### `system.transfers.nice`\n\nDefault `10`; 0 to 19; **wingsd**.\n\n") in page
    assert "### `token`\n\nRequired; non-empty" in page
    assert "never shown" in page


def test_the_man_page_has_each_key() -> None:
    page = MANPAGE.read_text()
    for section in sections():
        for key in section.keys:
            assert f".TP\n.B {key.path}\n(" in page


def test_the_man_page_hides_what_roff_would_take_for_its_own() -> None:
    (section,) = sections(_Odd)
    page = manpage((section,))
    assert r"\&.dotted \- and \(aqquoted\(aq, a \e in \fBcode\fR; see \fBproc\fR(5)." in page


@attrs.frozen
class _Odd:
    r"""All of it."""

    #: .dotted - and 'quoted', a \ in `code`; see proc(5).
    odd: int = 1


@pytest.mark.skipif(
    not (shutil.which("groff") or os.environ.get("CI")), reason="there is no groff to format it"
)
def test_the_man_page_can_be_formatted_without_a_warning() -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(MANPAGE)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_a_section_without_keys_is_not_shown() -> None:
    assert markdown((Section("empty", "Nothing.", ()),)) == ""


def test_the_layers_are_those_of_the_import_contract() -> None:
    drawn = layers().splitlines()[1:-1]
    assert drawn[0] == "tap"
    assert drawn[-1] == "errors   events"
    assert "control   cli" in drawn


def test_the_folders_are_those_of_the_code() -> None:
    rows = [row.split("|")[1].strip(" `") for row in folders().splitlines()[2:]]
    # (a directory without modules is left where a package was removed and has been compiled)
    code = Path(wingsd.__file__).parent
    found = {path.relative_to(code).parts[0] for path in code.rglob("*.py")}
    assert set(rows) == found - {"__init__.py"}
