"""What people can be told, found in the code."""

from __future__ import annotations

import pytest

from handbook.messages import is_about, told, written


@pytest.mark.parametrize(
    "text",
    [
        # An error whose words are its own, one with its words where it is raised,
        "the transfer was cancelled: start it again",
        "the server has no Docker image; choose one for it on the Panel",
        # by a constant, by one of another module, by a class method,
        "The token is not valid: its scope is not …",
        "the archive ends in the middle; it was cut short, send it again",
        "The data provided in the request could not be validated.: "
        "uuid: expected the UUID of a server",
        "missing archive or checksum",
        # a line of the log, of the console, of both, and a note on a file,
        "files not deleted: …",
        "The server has not stopped within … s and is killed.",
        "the Panel does not answer; the report is sent as soon as it does",
        "… changed while it was read",
        # what a file of an egg is refused for, and the last words of a command.
        "it names no file",
        "wingsd: cannot listen on …: …",
    ],
)
def test_each_kind_of_message_is_found(text: str) -> None:
    assert text in {message.text for message in told()}


def test_places_are_lines_of_the_code() -> None:
    for message in told():
        file, _, line = message.place.partition(":")
        assert file.startswith("wingsd/")
        assert int(line) > 0


def test_written_has_more_than_what_is_told() -> None:
    assert "it has expired; …" in written()


@pytest.mark.parametrize(
    ("entry", "message", "so"),
    [
        ("a mistake", "a mistake", True),
        ("a mistake", "this was a mistake", False),
        ("a hard link to", "… is a hard link to …", True),
        ("… is a hard link to …", "… is a hard link to …, which does not exist", True),
        ("… failed", "… failed: …", False),
        ("it is another message", "it is this message", False),
    ],
)
def test_an_entry_is_about_a_message(entry: str, message: str, so: bool) -> None:
    assert is_about(entry, message) is so
