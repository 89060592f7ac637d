"""What import contracts (`[tool.importlinter]` in pyproject.toml) cannot say of the code."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import wingsd

HOME = Path(wingsd.__file__).parent


def test_threads_are_started_by_one_package_on_the_reactors_side() -> None:
    words = ("deferToThread", "callFromThread", "callInThread", "ThreadPool")
    users = {
        path.relative_to(HOME).parts[0]
        for path in HOME.rglob("*.py")
        # The SFTP process is without a reactor.
        if "sftp/server" not in path.as_posix() and any(word in path.read_text() for word in words)
    }
    assert users == {"threadio.py"}


def test_the_product_imports_nothing_of_the_tests() -> None:
    for path in HOME.rglob("*.py"):
        assert "from tests" not in path.read_text()


def test_each_module_can_be_imported() -> None:
    for path in HOME.rglob("*.py"):
        parts = path.relative_to(HOME.parent).with_suffix("").parts
        import_module(".".join(parts).removesuffix(".__init__"))
