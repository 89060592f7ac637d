"""Each promise of the documents has tests, which the site lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from handbook.made import HOME
from handbook.promises import DOCUMENTS, Tests, listing, promises, proofs

MARKED = """
import pytest

pytestmark = [pytest.mark.promise("of-the-module"), pytest.mark.skipif(False, reason="")]

@pytest.mark.promise("of-both", "of-one")
@pytest.mark.parametrize("n", [1])
def test_one(n: int) -> None: ...

class TestSeveral:
    @pytest.mark.promise("of-both")
    async def test_two(self) -> None: ...

@pytest.mark.promise("of-the-module")
def test_three() -> None: ...
"""


@pytest.fixture(scope="module")
def proved() -> Mapping[str, Tests]:
    """The tests of each promise of this tree."""
    return proofs(HOME)


def test_each_promise_is_made_once_and_proved(proved: Mapping[str, Tests]) -> None:
    made = Counter(each for name in DOCUMENTS for each in promises((HOME / name).read_text()))
    assert [each for each, times in made.items() if times > 1] == []
    assert proved.keys() == made.keys()


def test_only_tests_carry_promises(proved: Mapping[str, Tests]) -> None:
    for files in proved.values():
        for file, names in files.items():
            assert [name for name in names if not name.startswith("test_")] == [], file


def test_a_promise_has_the_tests_that_carry_its_id(tmp_path: Path) -> None:
    test = tmp_path / "tests" / "below" / "test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text(MARKED)
    assert proofs(tmp_path) == {
        "of-both": {"tests/below/test_it.py": ["test_one", "test_two"]},
        "of-one": {"tests/below/test_it.py": ["test_one"]},
        # The whole module proves it.
        "of-the-module": {"tests/below/test_it.py": []},
    }


def test_an_id_that_is_not_written_out_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        "@pytest.mark.promise(SOME)\ndef test_it() -> None: ...\n"
    )
    with pytest.raises(ValueError, match="malformed"):
        proofs(tmp_path)


def test_ids_are_in_brackets_and_no_links() -> None:
    page = "One. [`one-promise`] Two [`two`] [`three-four`](x.md) `five-six`\n\n[`one-two`]: #x\n"
    assert promises(page) == ["one-promise"]


def test_the_chapter_lists_tests_and_makes_links_of_the_ids() -> None:
    chapter = listing(["some-id"], {"some-id": {"tests/a.py": ["test_b"], "tests/c.py": []}})
    assert chapter == (
        "## Tests of each promise\n\n"
        "(some-id)=\n**some-id**\n\n"
        "- `tests/a.py`\n  - `test_b`\n- `tests/c.py`\n\n"
        "[`some-id`]: #some-id\n"
    )
    with pytest.raises(LookupError):
        listing(["some-id"], {})
