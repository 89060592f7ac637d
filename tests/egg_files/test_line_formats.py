"""Lines, keys and sections: the formats file, ini and properties."""

from __future__ import annotations

import javaproperties
import pytest

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.child import format_of

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


ARK = sample("ark.ini")

MUMBLE = sample("mumble.ini")


def test_arks_settings() -> None:
    new = changed(
        "ini",
        ARK,
        put("ServerSettings.RCONPort", "27021"),
        put("ServerSettings.ServerPassword", "secret"),
        put("[/Script/Engine.GameSession].MaxPlayers", 20),
        put("[/Script/ShooterGame.ShooterGameUserSettings].bUseVSync", True),
        put("SessionSettings.SessionName", "Mine"),
        put("MessageOfTheDay.Message", 'Hi; "you" [all] # here'),
    )
    assert new == (
        ARK.replace("27020", "27021")
        .replace("ServerPassword=\n", "ServerPassword=secret\n", 1)
        .replace("MaxPlayers=70", "MaxPlayers=20")
        .replace("Version=5\n", "Version=5\nbUseVSync=true\n")
        .replace("SessionName=ARK #1", "SessionName=Mine")
        + '\n[MessageOfTheDay]\nMessage=Hi; "you" [all] # here\n'
    )


def test_mumbles_egg_has_keys_above_all_sections() -> None:
    new = changed(
        "ini",
        MUMBLE,
        put("database", "/home/container/murmur.sqlite"),
        put("port", "64740"),
        put("host", "10.0.0.1"),
        put("welcometext", "Hello"),
        put("Ice.[Ice.Warn.UnknownProperties]", "0"),
    )
    assert new == (
        MUMBLE.replace("database=", "database=/home/container/murmur.sqlite")
        .replace("port=64738", "port=64740")
        .replace("users=100\n", "users=100\nhost=10.0.0.1\n")
        .replace('"<br />Welcome to this server.<br />"', '"Hello"')
        .replace("Properties=1", "Properties=0")
    )


@pytest.mark.parametrize(
    ("text", "match", "new"),
    [
        ("", "k", "k=v\n"),
        ("", "s.k", "[s]\nk=v\n"),
        ("a = 1", "k", "a = 1\nk = v\n"),
        ("[s]\na=1\n\n[t]\n", "s.k", "[s]\na=1\nk=v\n\n[t]\n"),
        ("[s]", "s.k", "[s]\nk=v\n"),
        ("[s]\n", "k", "k=v\n[s]\n"),
        ("[a.b]\nk=1\n", "[a.b].k", "[a.b]\nk=v\n"),
        ("[s]\nk.x=1\n", "s.k.x", "[s]\nk.x=v\n"),
        ("[s]\nk: 1\n", "s.k", "[s]\nk: v\n"),
        ("[s]\n  k  =  1\n", "s.k", "[s]\n  k  =  v\n"),
        ("[s]\nk=1\n[t]\nk=2\n[s]\nk=3\n", "s.k", "[s]\nk=v\n[t]\nk=2\n[s]\nk=v\n"),
        ("[s]\nkk=1\n", "s.k", "[s]\nkk=1\nk=v\n"),
        ("[s]\nk=1 ; why\n", "s.k", "[s]\n; why\nk=v\n"),
        ('[s]\nk="1" # why\n', "s.k", '[s]\n# why\nk="v"\n'),
        ('[s]\nk="1","2"\n', "s.k", "[s]\nk=v\n"),
        ("[s]\nno key here\nk=1\n", "s.k", "[s]\nno key here\nk=v\n"),
    ],
)
def test_lines_of_ini_files(text: str, match: str, new: str) -> None:
    assert changed("ini", text, put(match, "v")) == new
    assert changed("ini", new, put(match, "v")) == new


def test_a_value_that_looks_like_a_comment_does_not_grow() -> None:
    change = put("s.k", "We are # 1")
    new = changed("ini", "[s]\nk=old\n", change)
    assert new == "[s]\nk=We are # 1\n"
    assert changed("ini", new, change) == new
    assert changed("ini", new, put("s.k", "x")).endswith("k=x\n")


@pytest.mark.parametrize("match", ["s.", "s. ", "a=b", "s.a\nb", "[s].", "[0]0", ";a", "s.#a"])
def test_a_key_that_no_ini_file_can_hold(match: str) -> None:
    text, failures = tried("ini", ARK, put(match, "v"))
    assert text == ARK
    assert "cannot hold a key of that name" in failures[0]


def test_a_value_of_two_lines_is_refused() -> None:
    text, failures = tried("ini", ARK, put("ServerSettings.RCONPort", "1\n[Evil]"))
    assert text == ARK
    assert "line break" in failures[0]


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
def test_odd_lines_of_properties(text: str, new: str) -> None:
    assert changed("properties", text, put("a", "x")) == new


def test_an_entry_that_the_file_breaks_off_in_swallows_nothing() -> None:
    new = changed("properties", "b=1\\", put("a", "x"))
    assert javaproperties.loads(new) == {"b": "1", "a": "x"}


def test_what_is_not_utf_8_stays_as_it_is() -> None:
    data = "#Über\nmotd=Grüße\nserver-port=1\n".encode("latin-1")
    from_egg = format_of("properties").rewrite(data, [])
    assert from_egg.data == data
