"""The reference of the configuration as the man page wingsd.yml(5), by groff_man(7)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from handbook.keys import Key, Section
from handbook.wording import default_of
from wingsd.config import PLACES

__all__ = ["manpage"]

_HEAD = r"""'\" t
.\" Made by `python -m handbook` from the classes in wingsd/config; change it there.
.TH WINGSD.YML 5 "" wingsd "File formats"
.SH NAME
wingsd.yml \- configuration of the game server node daemon wingsd
"""
#: Where it is looked for.
_FILES = PLACES
_DESCRIPTION = """\
.SH DESCRIPTION
The configuration is the file that a Pterodactyl or Pelican Panel prints for a node, in YAML.
All keys but three have defaults, which are those of Wings, the Panels' own node daemon.
A key without a value counts as left out.
Keys that are not known are ignored, with one line in the log; a value that cannot be used keeps
the daemon from starting, and is named by its path.
.PP
The file holds the node's token, so it should be readable by the daemon's user alone.
"""
_EXAMPLE = r""".SH EXAMPLES
The least that a node needs, behind a proxy that speaks TLS:
.PP
.in +4n
.EX
token_id: Ab12Cd34Ef56Gh78
token: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
remote: https://panel.example.com
api:
  host: 127.0.0.1
.EE
.in
.SH SEE ALSO
.BR twistd (1),
.BR wingsctl (1),
.BR signal (7),
.BR wingsd (8)
"""
_CODE = re.compile(r"`([^`]+)`")
_OTHER_PAGE = re.compile(r"\b([\w.-]+)(\([1-9]\))")


def manpage(sections: tuple[Section, ...]) -> str:
    """Return the page, which ends with a newline."""
    keys = "\n".join(line for section in sections if section.keys for line in _section(section))
    words = "the first of these that is there."
    files = "\n".join(f".TP\n.I {_escaped(path)}\n{words}" for path in _FILES)
    return f"{_HEAD}{_DESCRIPTION}.SH KEYS\n{keys}\n.SH FILES\n{files}\n{_EXAMPLE}"


def _section(section: Section) -> Iterator[str]:
    yield f".SS {_escaped(section.path)}" if section.path else ".SS At the top"
    yield _text(section.words)
    for key in section.keys:
        yield ".TP"
        yield f".B {_escaped(key.path)}"
        yield f"({_facts(key)})"
        yield ".br"
        yield _text(key.words)


def _facts(key: Key) -> str:
    words, value = default_of(key)
    facts = [
        key.kind,
        rf"{words} \fB{_escaped(value)}\fR" if value else words,
        key.bounds and f"must be {_escaped(key.bounds)}",
        "never shown" if key.is_secret else "",
        r"wingsd\(aqs own" if key.is_own else "",
    ]
    return "; ".join(filter(None, facts))


def _text(words: str) -> str:
    """Return Markdown of one paragraph as a line of text."""
    text = _CODE.sub(r"\\fB\1\\fR", _escaped(words))
    text = _OTHER_PAGE.sub(r"\\fB\1\\fR\2", text)
    return rf"\&{text}" if text.startswith((".", r"\(aq")) else text


def _escaped(text: str) -> str:
    # A hyphen that people may copy must not become a typographical one, nor an apostrophe.
    for character, escape in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("^", r"\(ha")):
        text = text.replace(character, escape)
    return text
