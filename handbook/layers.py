"""The folders of wingsd/ and their layers, from the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

__all__ = ["folders", "layers"]

_HOME = Path(__file__).parent.parent
_CODE = _HOME / "wingsd"


def layers() -> str:
    """Return the layers as a drawing, the highest first."""
    lines = [layer.replace("wingsd.", "").replace(" | ", "   ") for layer in _contract()]
    return "```text\n" + "\n".join(lines) + "\n```"


def folders() -> str:
    """Return a table of what is directly below wingsd/, with its purpose."""
    found = sorted(
        path for path in _CODE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    )
    rows = [_row(path) for path in found if path.name != "__init__.py"]
    return "\n".join(["| | purpose |", "|---|---|", *rows])


def _contract() -> list[str]:
    settings = tomllib.loads((_HOME / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layered,) = (one["layers"] for one in contracts if one["type"] == "layers")
    return list(layered)


def _row(path: Path) -> str:
    main = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(main.read_text())) or ""
    purpose = text.splitlines()[0].removesuffix(".").removesuffix(". Pure").replace("|", r"\|")
    return f"| `{path.name}` | {purpose} |"
