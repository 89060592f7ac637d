"""Credentials that the file does not contain itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from wingsd.config import parse
from wingsd.errors import ConfigError

FILE = "token_id: {}\ntoken: {}\nremote: https://panel.example.com\n"


def credentials(text: str, **environ: str) -> tuple[str, str]:
    config, _ = parse(text, "config.yml", environ)
    return config.token_id, config.token


def test_they_may_name_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t\r\n")
    text = FILE.format("$ID", "file://${CREDENTIALS_DIRECTORY}/token")
    found = credentials(text, ID="abc", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert found == ("abc", "s3cr3t")


def test_wings_variables_replace_them() -> None:
    environ = {"WINGS_TOKEN_ID": "other", "WINGS_TOKEN": "$HIDDEN", "HIDDEN": "s3cr3t"}
    assert credentials(FILE.format("a", "b"), **environ) == ("other", "s3cr3t")
    assert credentials("remote: https://panel.example.com", **environ) == ("other", "s3cr3t")
    assert credentials(FILE.format("a", "b"), WINGS_TOKEN="") == ("a", "b")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("$MISSING", "token: the variable MISSING, which it names, is not set"),
        ("file:///nowhere/token", "token: /nowhere/token, which it names, cannot be read"),
        ("$EMPTY", "token: what it names is empty"),
    ],
)
def test_what_is_missing_is_named(token: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials(FILE.format("a", token), EMPTY="")
    assert reason in str(caught.value)
