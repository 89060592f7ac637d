"""The command's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wingsd.tap import Options


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "token_id: id\ntoken: secret\nremote: https://panel.invalid\n"
    (tmp_path / "config.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    options: Any = Options()
    options.parseOptions(["--config", "config.yml"])
    assert options["config"] == str(tmp_path / "config.yml")
