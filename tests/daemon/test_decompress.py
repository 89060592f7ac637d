"""Archives extracted for curl over TLS, in the dialects of three families, and nodes killed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_file_changes import JSON, send, temporary
from tests.daemon.test_files import UUID, curl
from tests.support.parsers import lives, processes_of
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from tests.support.user_archives import ZipMember, rar5, zipped

MIB = 1 << 20
ARCHIVES = {
    "z.zip": ["zip", "-qry", "OUT", "in"],
    "s.7z": ["7z", "a", "-bd", "-bso0", "OUT", "in"],
    "t.tar.gz": ["tar", "-czf", "OUT", "in"],
}


@pytest.fixture
def home(daemon: ReceivingNode) -> Path:
    made = daemon.own(UUID)
    (made / "in/empty").mkdir(parents=True)
    (made / "in/file").write_bytes(b"new" * 100_000)
    (made / "in/secret.key").write_text("from the archive")
    (made / "out/in").mkdir(parents=True)
    (made / "out/in/secret.key").write_text("secret")
    (made / "out/in/file").write_text("old")
    return made


async def decompress(daemon: ReceivingNode, **body: Any) -> tuple[int, Any]:
    text = json.dumps({"root": "/out", **body})
    status, answer = await curl(
        daemon, "decompress", "-H", f"Content-Type: {JSON}", "--data-binary", text
    )
    return status, json.loads(answer) if answer else None


@pytest.mark.parametrize("family", ["pelican", "calagopus"])
async def test_archives_of_programs_are_extracted(
    daemon: ReceivingNode, home: Path, family: str
) -> None:
    await daemon.start_loaded(family=family)
    for name, command in ARCHIVES.items():
        made = [str(home / "out" / name) if part == "OUT" else part for part in command]
        subprocess.run(made, cwd=home, check=True)
        (home / "out/in/file").write_text("old")
        answer = await decompress(daemon, file=name)
        done: tuple[int, Any] = (200, {}) if family == "calagopus" else (204, None)
        # 202 after ten seconds, which a busy machine may need.
        assert answer in (done, (202, None)), name
        await until(lambda: not parsers(daemon))
        assert (home / "out/in/file").read_bytes() == b"new" * 100_000
        assert (home / "out/in/empty").is_dir()
        # The egg's denylist has it.
        assert (home / "out/in/secret.key").read_text() == "secret"
    assert not temporary(home / "out/in")


#: Archives that are refused: by their names, with the beginning of the error and its code.
REFUSED = {
    "a.txt": (
        b"hello",
        "The archive provided is in a format Wings does not understand.",
        "archive-format-unknown",
    ),
    "a.zip": (
        zipped(ZipMember(b"f", b"x", size=1 << 30)),
        "There is not enough disk space available to perform that action.",
        "disk-limit-exceeded",
    ),
    "a.rar": (
        rar5((b"n" * 256, b"x")),
        "Cannot perform that action: file name is too long.",
        "file-name-too-long",
    ),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + b"\2" * 60, "The archive is damaged", "archive-damaged"),
}


async def test_what_is_refused_leaves_everything_as_it_was(
    daemon: ReceivingNode, home: Path
) -> None:
    settings = daemon.panel.settings_of(UUID)
    settings["build"]["disk_space"] = 100
    await daemon.start_loaded()
    for name, (data, error, code) in REFUSED.items():
        (home / "out" / name).write_bytes(data)
        before = sorted(str(path) for path in home.rglob("*"))
        while (answered := await decompress(daemon, file=name)) == (202, None):
            # After ten seconds, on a busy machine: how it ends is not answered.
            await until(lambda: not parsers(daemon))
        status, answer = answered
        assert (status, answer["code"]) == (400, code), answer
        assert answer["error"].startswith(error)
        assert sorted(str(path) for path in home.rglob("*")) == before


@pytest.mark.promise("files-are-old-or-new")
async def test_what_goes_on_is_listed_and_cancelled(daemon: ReceivingNode, home: Path) -> None:
    await daemon.start_loaded(family="calagopus")
    large(home / "out/large.zip")
    status, started = await decompress(daemon, file="large.zip", foreground=False)
    assert status == 202
    operation = f"operations/{started['identifier']}"

    async def listed() -> list[dict[str, Any]]:
        _, answer = await curl(daemon, "operations")
        return list(json.loads(answer)["operations"])

    (shown,) = await listed()
    assert (shown["type"], shown["path"]) == ("decompress", "/out/large.zip")
    assert shown["destination_path"] == "/out"
    status, _ = await curl(daemon, operation, "-X", "DELETE")
    assert status == 200
    while await listed():
        pass
    assert sorted(os.listdir(home / "out")) == ["f", "in", "large.zip"]
    assert (home / "out/f").read_text() == "old"


def large(path: Path) -> None:
    """Make an archive that takes seconds, whose file is there already."""
    path.with_name("f").write_text("old")
    body = os.urandom(MIB) * 256
    path.write_bytes(zipped(ZipMember(b"f", body)))


def parsers(daemon: ReceivingNode) -> list[int]:
    """Return the processes of a daemon that parse archives."""
    return processes_of(daemon.pid, b"user_archives.child")


@pytest.mark.promise("files-are-old-or-new")
async def test_after_a_kill_the_old_file_is_whole_and_the_parser_has_ended(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded()
    large(home / "out/large.zip")
    body = json.dumps({"root": "/out", "file": "large.zip"})
    send(daemon, "decompress", "-H", f"Content-Type: {JSON}", "--data-binary", body)
    await until(lambda: any(each.stat().st_size for each in temporary(home / "out")))
    (parser,) = parsers(daemon)
    await daemon.kill()
    await until(lambda: not lives(parser))
    assert (home / "out/f").read_text() == "old"
    (left,) = temporary(home / "out")
    os.utime(left, (time.time() - 120,) * 2)
    await daemon.start_loaded()
    status, listed = await curl(daemon, "list-directory?directory=/out")
    assert status == 200
    assert sorted(each["name"] for each in json.loads(listed)) == ["f", "in", "large.zip"]
    await until(lambda: not temporary(home / "out"))
