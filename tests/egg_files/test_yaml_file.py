from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import NotDone

BUNGEECORD = sample("bungeecord.yml")


def test_bungeecords_egg() -> None:
    new = changed(
        "yaml",
        BUNGEECORD,
        put("listeners[0].query_port", "25565"),
        put("listeners[0].host", "0.0.0.0:25565"),
        put(
            "servers.*.address",
            "{{config.docker.interface}}$2",
            r"regex:^(127\.0\.0\.1|localhost)(:\d{1,5})?$",
        ),
    )
    assert new == (
        BUNGEECORD.replace("25577", "25565")
        .replace("localhost:42420", "172.18.0.1:42420")
        .replace("127.0.0.1:25566", "172.18.0.1:25566")
    )


@pytest.mark.parametrize(
    ("match", "value", "old", "new"),
    [
        ("ip_forward", "false", "ip_forward: yes", "ip_forward: false"),
        ("ip_forward", False, "ip_forward: yes", "ip_forward: false"),
        ("online_mode", "0", "online_mode: true   #", "online_mode: false  #"),
        ("listeners[0].motd", "it's", "'&1Another Bungee server'", "'it''s'"),
        ("servers.far.address", "25566", '"10.1.2.3:25566"', '"25566"'),
        # Texts that YAML 1.1 would read as something else.
        ("servers.pvp.address", "yes", "127.0.0.1:25566", "'yes'"),
        ("servers.pvp.address", "on", "127.0.0.1:25566", "'on'"),
        ("servers.pvp.address", "12:30:45", "127.0.0.1:25566", "'12:30:45'"),
        ("servers.pvp.address", "25566", "127.0.0.1:25566", "'25566'"),
        ("servers.pvp.address", "", "127.0.0.1:25566", "''"),
    ],
)
def test_values_keep_type_for_every_reader(match: str, value: Any, old: str, new: str) -> None:
    text = changed("yaml", BUNGEECORD, put(match, value))
    assert text == BUNGEECORD.replace(old, new)


def test_the_indentation_is_the_files_own() -> None:
    text = "a:\n    b: 1\n    list:\n      - x: 1\n        y: 2\n# end\n"
    assert changed("yaml", text, put("a.b", 2)) == text.replace("b: 1", "b: 2")


def test_long_lines_stay_on_one_line() -> None:
    text = f"motd: {'word ' * 100}end\nport: 1\n"
    assert changed("yaml", text, put("port", "2")) == text.replace("port: 1", "port: 2")


def test_anchors_and_tags_stay() -> None:
    text = "base: &b {port: 1}\nother: *b\nobject: !java.Type {x: 1}\n"
    new = changed("yaml", text, put("object.x", 2), put("last", "z"))
    assert new == text.replace("x: 1", "x: 2") + "last: z\n"


@pytest.mark.parametrize("text", ["", "# Nothing set yet.\n", "# no line end", "---\n"])
def test_what_an_empty_file_says_in_comments_stays(text: str) -> None:
    new = changed("yaml", text, put("a.b[0].c", "5"))
    assert new.startswith(text)
    assert yaml.safe_load(new) == {"a": {"b": [{"c": 5}]}}


def test_keys_that_are_no_texts() -> None:
    assert changed("yaml", "worlds:\n  1:\n    pvp: no\n", put("worlds.1.pvp", "true")) == (
        "worlds:\n  1:\n    pvp: true\n"
    )


def test_keys_that_are_made_are_texts_for_every_reader() -> None:
    new = changed("yaml", "a: 1\n", put("no", 1), put("b.on[0].8", 2), put("no", 3))
    assert new == "a: 1\n'no': 3\nb:\n  'on':\n  - '8': 2\n"


def test_aliases_of_aliases_do_not_grow() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    text = "\n".join(["a0: &a0 [x]", *levels, "last: *a11", "port: 1", ""])
    assert changed("yaml", text, put("port", 2)) == text.replace("port: 1", "port: 2")


def test_what_is_too_deep_is_refused() -> None:
    with pytest.raises(NotDone, match="more than 64 levels deep"):
        tried("yaml", "[" * 1000 + "]" * 1000, put("a", 1))


@pytest.mark.parametrize(
    "source",
    [
        # Each merges all those before it.
        "".join(
            f"a{n}: &a{n} {{<<: [{','.join(f'*a{m}' for m in range(n))}], k{n}: 1}}\n"
            for n in range(120)
        ),
        "a: &a\n" + "".join(f"  k{n}: 1\n" for n in range(9000)) + "b:\n" + "- <<: *a\n" * 900,
    ],
)
def test_merging_made_to_be_slow_is_refused(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(NotDone, match="it merges too much with <<"):
        tried("yaml", source, put("b", "1"))
    assert time.thread_time() - started < 2


def test_a_usual_merge_stays() -> None:
    source = "base: &base\n  port: 1\nhub:\n  <<: *base\n  name: hub\n"
    new = changed("yaml", source, put("hub.name", "lobby"))
    assert new == source.replace("name: hub", "name: lobby")


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029", "\r", "\ufeff", "\x1b"])
def test_odd_characters_come_back_as_they_were(quote: str, odd: str) -> None:
    text = f"a{odd}b"
    new = changed("yaml", f"k: {quote}x{quote}\n", put("k", text), put(text, text))
    assert yaml.safe_load(new) == {"k": text, text: text}


@pytest.mark.parametrize("key", ["?(", "?", "-(", ":(", "!(", "&(", "*(", "%(", "@(", "`("])
def test_odd_keys_within_braces_come_back_as_they_were(key: str) -> None:
    new = changed("yaml", "a: {b: 1}\n", put(f"a.{key}", "x"))
    assert yaml.safe_load(new) == {"a": {"b": 1, key: "x"}}


@pytest.mark.parametrize("end", ["\r", "\x85", "\u2028"])
def test_a_comment_ends_where_yaml_ends_its_line(end: str) -> None:
    with pytest.raises(NotDone):
        tried("yaml", f"# comment{end}text", put("a.b", "1"))


def test_nothing_is_written_that_would_be_refused_the_next_time() -> None:
    with pytest.raises(NotDone, match="nested more than 64 levels"):
        tried("yaml", "a: 1\n", put(".".join("b" * 70), "1"))
