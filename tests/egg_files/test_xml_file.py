from __future__ import annotations

import time
from pathlib import Path

import pytest
from lxml import etree

from tests.egg_files.helpers import changed, put, sample, tried
from wingsd.egg_files.changes import NotDone

SEVEN_DAYS = sample("seven_days.xml")

SPACE_ENGINEERS = sample("space_engineers.xml")


def test_seven_days_to_die() -> None:
    new = changed(
        "xml",
        SEVEN_DAYS,
        put("ServerSettings.property[@name='ServerPort']", "[value='26910']"),
        put('ServerSettings.property[@name="ServerName"]', "[value='A & \"B\"']"),
        put("ServerSettings.property[@name='a.b']", "[value='new']"),
    )
    read = {e.get("name"): e.get("value") for e in etree.fromstring(new).iter("property")}
    assert read == {
        "ServerName": 'A & "B"',
        "ServerPort": "26910",
        "ServerPassword": "",
        "a.b": "new",
    }
    assert new.startswith('<?xml version="1.0"?>\n<ServerSettings>\n\t<!-- GENERAL SERVER')
    assert "<!-- Whatever you want. -->\n" in new
    assert new.endswith('\n\t<property name="a.b" value="new"/>\n</ServerSettings>\n')


def test_elements_texts() -> None:
    new = changed(
        "xml",
        SPACE_ENGINEERS,
        put("MyConfigDedicated.ServerPort", "27020"),
        put("MyConfigDedicated.SessionSettings.MaxPlayers", 16),
        put("MyConfigDedicated.ServerName", "new <one>"),
        put("MyConfigDedicated.SessionSettings.BlockTypeLimits.dictionary.item", True),
        put("MyConfigDedicated.Mods.*.Name", "3"),
        put("MyConfigDedicated.IP", "10.0.0.1"),
    )
    root = etree.fromstring(new.encode())
    assert root.findtext("ServerPort") == "27020"
    assert root.findtext("SessionSettings/MaxPlayers") == "16"
    assert root.findtext("SessionSettings/BlockTypeLimits/dictionary/item") == "true"
    assert [e.text for e in root.iter("Name")] == ["3", "3"]
    assert "  <ServerName>new &lt;one&gt;<!-- shown to all --></ServerName>\n" in new
    assert new.endswith("</Mods>\n  <IP>10.0.0.1</IP>\n</MyConfigDedicated>\n")
    assert new.startswith('<?xml version="1.0" encoding="utf-8"?>\n<MyConfigDedicated xmlns:xsi=')


@pytest.mark.parametrize("text", ["", "\n", '<?xml version="1.0" encoding="utf-8"?>\n'])
def test_a_missing_document_is_made(text: str) -> None:
    assert changed("xml", text, put("Root.A.B", "1"), put("Root.C", "[d='2']")) == (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<Root>\n  <A>\n    <B>1</B>\n  </A>\n  <C d="2"/>\n</Root>\n'
    )


def test_namespaces() -> None:
    text = '<c xmlns="urn:a" xmlns:x="urn:b">\n  <p>1</p>\n  <x:p>1</x:p>\n</c>'
    new = changed("xml", text, put("c.x:p", "3"), put("c.p[1]", "2"), put("c.x:q", "4"))
    root = etree.fromstring(new)
    assert [e.text for e in root.iter("{urn:b}p", "{urn:b}q")] == ["3", "4"]
    assert 'xmlns:x="urn:b"' in new


def test_comments_and_doctype_around_the_root_stay() -> None:
    text = (
        '<?xml version="1.0"?>\n<!DOCTYPE r SYSTEM "r.dtd">\n<!-- a -->\n\n'
        "<r><p>1</p></r>\n<!-- b -->\n"
    )
    assert changed("xml", text, put("r.p", "2")) == text.replace("<p>1", "<p>2")


@pytest.mark.parametrize(
    ("match", "word"),
    [
        ("Other.Port", "the root element is MyConfigDedicated, not Other"),
        ("MyConfigDedicated.a b", "not an element's name"),
        ("MyConfigDedicated.Mods[ModItem='x'].y", "there is no element"),
        ("MyConfigDedicated.x:y", "prefix 'x' not found"),
    ],
)
def test_paths_that_lead_nowhere(match: str, word: str) -> None:
    text, failures = tried("xml", SPACE_ENGINEERS, put(match, "1"))
    assert text == SPACE_ENGINEERS
    assert word in failures[0]


def test_a_value_that_xml_cannot_hold() -> None:
    text, failures = tried("xml", SPACE_ENGINEERS, put("MyConfigDedicated.ServerPort", "\x01"))
    assert text == SPACE_ENGINEERS
    assert "cannot be written in XML" in failures[0]


def test_nothing_outside_the_file_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the node's own")
    text = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{secret}">]>\n<a><b>1</b><c>&e;</c></a>'
    new = changed("xml", text, put("a.b", "2"))
    assert "the node's own" not in new
    assert new == text.replace("<b>1", "<b>2")


def test_entities_do_not_grow() -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<!DOCTYPE a [<!ENTITY e0 "x">{levels}]>\n<a><b>1</b><c>&e11;</c></a>'
    # In the words of libxml2 as the library brings it, and of Debian's own.
    with pytest.raises(NotDone, match=r"amplification|entity reference loop"):
        tried("xml", text, put("a.b", "2"))


@pytest.mark.parametrize("end", ["<?it's?>", "<!--a", "<!x '>"])
def test_a_document_type_made_to_be_slow_is_not(end: str) -> None:
    # Whoever has the server writes its files, and an expression at work stops the whole node.
    source = f"<!DOCTYPE r [{'<!--a-->' * 5000}{end}]><r><a>x</a></r>"
    started = time.thread_time()
    try:
        new = changed("xml", source, put("r.a", "y"))
    except NotDone:
        new = source
    assert time.thread_time() - started < 2
    assert new.startswith(source.partition("<r>")[0])


@pytest.mark.parametrize("match", ["a.T:st", "a.b.c[@T:st='1']", "a.b.T:c", "a.b.c.d[1]"])
@pytest.mark.parametrize("source", ["", "<a/>", "<a>\n  <x/>\n</a>"])
def test_nothing_is_added_for_an_element_that_cannot_be_made(match: str, source: str) -> None:
    new, failures = tried("xml", source, put(match, "1"))
    assert new == source
    assert len(failures) == 1


@pytest.mark.parametrize("match", ["T:st", "T:st.b", "a[@x:y='1']", "a[@1='1']", "a:", "a:b:c"])
def test_no_root_is_made_that_cannot_be(match: str) -> None:
    new, failures = tried("xml", "", put(match, "1"))
    assert new == ""
    assert len(failures) == 1


def test_an_attribute_that_cannot_be_is_refused() -> None:
    new, failures = tried("xml", "<a/>", put("a", "[8080k='v']"))
    assert new == "<a/>"
    assert "8080k" in failures[0]
