from __future__ import annotations

from tests.egg_files.helpers import changed, put

CONFIG = """\
// Server settings
hostname "old"
sv_password ""
  hostname "indented"
port=1
port2=2
"""


def test_lines_are_known_by_how_they_begin() -> None:
    new = changed(
        "file",
        CONFIG,
        put("hostname", 'hostname "{{config.docker.interface}} §b"'),
        put("sv_pass", 'sv_password "a\\b$1"'),
        put("nothing", "else"),
    )
    assert new == CONFIG.replace('\nhostname "old"', '\nhostname "172.18.0.1 §b"').replace(
        'sv_password ""', 'sv_password "a\\b$1"'
    )


def test_the_longest_match_counts() -> None:
    changes = put("port2", "port2=20"), put("port", "port=10")
    for order in (changes, changes[::-1]):
        assert changed("file", CONFIG, *order) == CONFIG.replace("=1", "=10").replace("=2", "=20")


def test_of_equal_matches_the_last_counts() -> None:
    assert changed("file", "a=1\n", put("a", "a=2"), put("a", "a=3")) == "a=3\n"


def test_one_change_does_not_see_what_another_wrote() -> None:
    assert changed("file", "a\nb\n", put("a", "b"), put("b", "c")) == "b\nc\n"


def test_a_condition_has_no_meaning() -> None:
    assert changed("file", "a=1\n", put("a=", "a=2", "7")) == "a=2\n"


def test_a_value_of_several_lines_does_not_grow() -> None:
    change = put("a", "a=1\nb=2")
    new = changed("file", "a\nz\n", change)
    assert new == "a=1\nb=2\nz\n"
    assert changed("file", new, change) == new


def test_other_characters_that_end_lines_elsewhere_do_not_here() -> None:
    text = "x\u2028a=1\x85a=1\x0ca=1\na=1"
    assert changed("file", text, put("a=", "a=2")) == "x\u2028a=1\x85a=1\x0ca=1\na=2"
