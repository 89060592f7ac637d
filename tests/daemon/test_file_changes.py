"""Files changed by curl over TLS in the dialects of three families, and nodes killed meanwhile."""

from __future__ import annotations

import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from twisted.internet import reactor as installed_reactor
from twisted.internet.protocol import ProcessProtocol

from tests.daemon.test_files import PACKED, UUID, curl
from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode

reactor: Any = installed_reactor
JSON = "application/json"


@pytest.fixture
def home(daemon: ReceivingNode) -> Path:
    made = daemon.own(UUID)
    (made / "d").mkdir(parents=True)
    (made / "a.txt").write_text("old")
    (made / "d/b").write_text("b")
    (made / "secret.key").write_text("secret")
    return made


def names(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def temporary(home: Path) -> list[Path]:
    return list(home.glob(".wingsd-*.part"))


@pytest.mark.parametrize(
    ("family", "form"),
    [("pelican", JSON), ("calagopus", PACKED)],
)
async def test_each_change_is_answered_in_its_familys_dialect(
    daemon: ReceivingNode, home: Path, family: str, form: str
) -> None:
    await daemon.start_loaded(family=family)
    encode: Callable[[Any], bytes] = msgpack.packb if form == PACKED else _json
    decode: Callable[[bytes], Any] = msgpack.unpackb if form == PACKED else json.loads
    is_calagopus = family == "calagopus"
    sent = daemon.directory / "sent"

    async def change(call: str, body: Any, method: str = "POST") -> tuple[int, Any]:
        sent.write_bytes(encode(body))
        headers = ("-H", f"Accept: {form}", "-H", f"Content-Type: {form}")
        status, answer = await curl(
            daemon, call, "-X", method, *headers, "--data-binary", f"@{sent}"
        )
        return status, decode(answer) if answer else None

    def success(**answer: Any) -> tuple[int, Any]:
        return (200, answer) if is_calagopus else (204, None)

    sent.write_bytes(b"new" * 1_000_000)
    status, _ = await curl(
        daemon, "write?file=x/new", "-H", f"Accept: {form}", "--data-binary", f"@{sent}"
    )
    assert status == (200 if is_calagopus else 204)
    assert (home / "x/new").read_bytes() == b"new" * 1_000_000
    moved = {"root": "/", "files": [{"from": "x/new", "to": "y/moved"}]}
    assert await change("rename", moved, "PUT") == success(renamed=1)
    status, answer = await change("copy", {"path" if is_calagopus else "location": "a.txt"})
    assert status == (200 if is_calagopus else 204)
    assert (home / "a copy.txt").read_text() == "old"
    assert await change("create-directory", {"name": "n", "path": "/"}) == success()
    modes = {"root": "/", "files": [{"file": "a.txt", "mode": "600"}]}
    assert await change("chmod", modes) == success(updated=1)
    assert await change("delete", {"root": "/", "files": ["x", "y", "n"]}) == success(deleted=3)
    status, answer = await change("compress", {"root": "/", "files": ["d", "secret.key"]})
    assert (status, answer["size"]) == (200, (home / answer["name"]).stat().st_size)
    with tarfile.open(home / answer["name"]) as archive:
        assert archive.getnames() == ["d", "d/b"]
    status, answer = await change("delete", {"root": "/", "files": ["secret.key"]})
    assert (status, answer["code"]) == (417 if is_calagopus else 403, "file-denied")
    assert {"a copy.txt", "a.txt", "d", "d/b", "secret.key"} < set(names(home))
    assert not temporary(home)


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()


def send(daemon: ReceivingNode, call: str, *arguments: str) -> None:
    """Send a request whose answer is not waited for."""
    command = ["curl", "-sS", "--cacert", str(daemon.ca), "-o", os.devnull, *arguments]
    command += ["-H", f"Authorization: Bearer {daemon.node.token}"]
    command += [f"{daemon.url}/api/servers/{UUID}/files/{call}"]
    reactor.spawnProcess(ProcessProtocol(), "/usr/bin/curl", command, env=os.environ)


@pytest.mark.promise("files-are-old-or-new")
@pytest.mark.parametrize("call", ["write", "compress"])
async def test_after_a_kill_the_old_file_is_whole_and_nothing_is_left_over(
    daemon: ReceivingNode, home: Path, call: str
) -> None:
    await daemon.start_loaded()
    large = daemon.directory / "large"
    if call == "write":
        large.write_bytes(os.urandom(8 << 20))
        send(daemon, "write?file=a.txt", "--limit-rate", "1M", "--data-binary", f"@{large}")
    else:
        (home / "large").write_bytes(os.urandom(256 << 20))
        body = json.dumps({"files": ["large"]})
        send(daemon, "compress", "-H", f"Content-Type: {JSON}", "--data-binary", body)
    await until(lambda: any(each.stat().st_size for each in temporary(home)))
    await daemon.kill()
    assert (home / "a.txt").read_text() == "old"
    (left,) = temporary(home)
    assert not list(home.glob("archive-*"))
    # What a process has left over is deleted where it is found, a minute after it was written.
    os.utime(left, (time.time() - 120,) * 2)
    await daemon.start_loaded()
    status, listed = await curl(daemon, "list-directory?directory=/")
    assert status == 200
    shown = sorted(entry["name"] for entry in json.loads(listed))
    expected = ["a.txt", "d", *(["large"] if call == "compress" else []), "secret.key"]
    assert shown == expected
    await until(lambda: not temporary(home))
