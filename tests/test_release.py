"""`make release`, as far as `tools/release` is it, in a small repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
ME = ("-c", "user.name=a", "-c", "user.email=a@example.com")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="it tags a commit by git")


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)


def commit(home: Path) -> None:
    for command in (("add", "--all"), (*ME, "commit", "--quiet", "--message", "a change")):
        done = run(home, "git", *command)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A repository in which version 1.2.3 can be released."""
    made = tmp_path / "wingsd"
    files = {
        "wingsd/__init__.py": '__version__ = "1.2.3"\n__release__ = "1.2.3"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3 (2026-12-01)\n\n## 1.2.2 (2026-11-01)\n",
        "debian/changelog": "wingsd (1.2.3) unstable; urgency=medium\n",
        "newsfragments/README.md": "",
        ".gitignore": "/dist/\n",
    }
    for name, text in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    (made / "tools").mkdir()
    shutil.copy(HOME / "tools/release", made / "tools")
    assert run(made, "git", "init", "--quiet", "--initial-branch", "main").returncode == 0
    commit(made)
    return made


def test_a_release_is_tagged_and_its_files_are_in_dist(home: Path) -> None:
    assert run(home, "tools/release", "check").stderr == ""
    (home / "dist").mkdir()
    (home / "dist/wingsd_1.2.3_all.deb").touch()
    settings = {f"user.{key}": value for key, value in (("name", "a"), ("email", "a@b.example"))}
    for key, value in settings.items():
        run(home, "git", "config", key, value)
    done = run(home, "tools/release", "finish")
    assert (done.returncode, done.stderr) == (0, "")
    assert "git push origin main v1.2.3" in done.stdout
    assert run(home, "git", "tag", "--list").stdout == "v1.2.3\n"
    names = {path.name for path in (home / "dist").iterdir()}
    assert names == {"wingsd_1.2.3_all.deb", "wingsd-1.2.3.tar.gz", "SHA256SUMS"}
    assert run(home / "dist", "sha256sum", "--check", "SHA256SUMS").returncode == 0
    # A version is released once.
    again = run(home, "tools/release", "check")
    assert (again.returncode, "v1.2.3 exists" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("wingsd/__init__.py", '__version__ = "1.2.3.dev0"\n', "1.2.3.dev0 is not that of"),
        ("wingsd/__init__.py", '__version__ = "1.2.4"\n__release__ = "1.2.4"\n', "CHANGELOG.md"),
        ("debian/changelog", "wingsd (1.2.3~dev0) unstable\n", "debian/changelog"),
        ("newsfragments/1.feature.md", "A change.\n", "newsfragments/1.feature.md"),
    ],
)
def test_what_is_not_ready_is_not_released(home: Path, file: str, text: str, reason: str) -> None:
    (home / file).write_text(text)
    commit(home)
    done = run(home, "tools/release", "check")
    assert (done.returncode, reason in done.stderr) == (1, True), done.stderr


def test_only_what_is_committed_on_main_is_released(home: Path) -> None:
    (home / "new").touch()
    assert "?? new" in run(home, "tools/release", "check").stderr
    (home / "new").unlink()
    run(home, "git", "switch", "--quiet", "--create", "other")
    assert "this is other" in run(home, "tools/release", "check").stderr
    run(home, "git", "switch", "--quiet", "main")
    assert "make deb" in run(home, "tools/release", "finish").stderr
