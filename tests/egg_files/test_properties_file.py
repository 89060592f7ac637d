from __future__ import annotations

import javaproperties
import pytest

from tests.egg_files.helpers import changed, put, tried
from wingsd.egg_files.changes import NotDone
from wingsd.egg_files.child import format_of

MINECRAFT = r"""#Minecraft server properties
#Wed Nov 25 09:00:00 UTC 2026
enable-query=false
query.port=25565
motd=A Minecraft Server\: \u00a7bblue
server-ip=
level-name=world
# An administrator's own remark.
server-port = 25565
generator-settings={"layers"\:[{"block"\:"minecraft\:stone"}]}
"""


def test_minecrafts_egg() -> None:
    new = changed(
        "properties",
        MINECRAFT,
        put("server-ip", "10.0.0.1"),
        put("server-port", "25570"),
        put("query.port", "25570"),
        put("enable-rcon", False),
    )
    assert new == (
        MINECRAFT.replace("server-ip=", "server-ip=10.0.0.1").replace("25565", "25570")
        + "enable-rcon=false\n"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("A:B=C#D!E", "A:B=C#D!E"),
        ("§bblue", r"\u00a7bblue"),
        ("\U0001f600", r"\ud83d\ude00"),
        ("C:\\world", r"C:\\world"),
        ("two\nlines", r"two\nlines"),
        ("  padded ", r"\  padded "),
        ("", ""),
    ],
)
def test_values_are_written_for_java_and_for_others(value: str, written: str) -> None:
    new = changed("properties", MINECRAFT, put("level-name", value))
    assert new == MINECRAFT.replace("level-name=world", f"level-name={written}")
    assert javaproperties.loads(new)["level-name"] == value


def test_what_has_its_value_already_is_the_same_text() -> None:
    value = "A Minecraft Server: §bblue"
    assert changed("properties", MINECRAFT, put("motd", value)) == MINECRAFT


def test_conditions() -> None:
    text = "a=1\nb=1\n"
    new = changed(
        "properties",
        text,
        put("a", "2", "1"),
        put("b", "2", "3"),
        put("c", "2", "1"),
        put("b", "x$1", r"regex:^(\d)$"),
    )
    assert new == "a=2\nb=x1\n"


def test_a_key_that_stands_twice_is_changed_twice() -> None:
    assert changed("properties", "a=1\nb=2\na=3\n", put("a", "4", "3")) == "a=4\nb=2\na=4\n"


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("", "a=x\n"),
        ("b=1", "b=1\na=x\n"),
        ("# no line end \\", "# no line end \\\na=x\n"),
        ("a", "a=x"),
        ("a:1", "a:x"),
        ("  a 1\n", "  a x\n"),
        ("a=one \\\n   two\nb=2\n", "a=x\nb=2\n"),
        ("\\u0061=1\n", "\\u0061=x\n"),
    ],
)
def test_odd_lines(text: str, new: str) -> None:
    assert changed("properties", text, put("a", "x")) == new


def test_an_entry_that_the_file_breaks_off_in_swallows_nothing() -> None:
    new = changed("properties", "b=1\\", put("a", "x"))
    assert javaproperties.loads(new) == {"b": "1", "a": "x"}


def test_what_is_not_utf_8_stays_as_it_is() -> None:
    data = "#Über\nmotd=Grüße\nserver-port=1\n".encode("latin-1")
    from_egg = format_of("properties").rewrite(data, [])
    assert from_egg.data == data


def test_lines_continued_without_end_are_refused() -> None:
    with pytest.raises(NotDone, match="continued on the next"):
        tried("properties", "a\\\n" * 100_000, put("a", "x"))


def test_an_escape_that_is_none_is_refused() -> None:
    with pytest.raises(NotDone, match="not a properties file"):
        tried("properties", "path=C:\\users\n", put("a", "x"))
