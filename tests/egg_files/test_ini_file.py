from __future__ import annotations

import pytest

from tests.egg_files.helpers import changed, put, sample, tried

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
def test_lines(text: str, match: str, new: str) -> None:
    assert changed("ini", text, put(match, "v")) == new
    assert changed("ini", new, put(match, "v")) == new


def test_a_value_that_looks_like_a_comment_does_not_grow() -> None:
    change = put("s.k", "We are # 1")
    new = changed("ini", "[s]\nk=old\n", change)
    assert new == "[s]\nk=We are # 1\n"
    assert changed("ini", new, change) == new
    assert changed("ini", new, put("s.k", "x")).endswith("k=x\n")


def test_conditions() -> None:
    text = '[s]\na=1\na=2\nb="old"\n'
    new = changed(
        "ini", text, put("s.a", "9", "2"), put("s.b", "new", "old"), put("s.c", "x", "y")
    )
    assert new == '[s]\na=1\na=9\nb="new"\n'


@pytest.mark.parametrize("match", ["s.", "s. ", "a=b", "s.a\nb", "[s].", "[0]0", ";a", "s.#a"])
def test_a_key_that_no_ini_file_can_hold(match: str) -> None:
    text, failures = tried("ini", ARK, put(match, "v"))
    assert text == ARK
    assert "cannot hold a key of that name" in failures[0]


def test_a_value_of_two_lines_is_refused() -> None:
    text, failures = tried("ini", ARK, put("ServerSettings.RCONPort", "1\n[Evil]"))
    assert text == ARK
    assert "line break" in failures[0]
