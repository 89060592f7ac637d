"""The files of a server, asked for by curl over TLS in the dialects of three families."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.reactor import until
from tests.support.receiving_node import ReceivingNode
from wingsd.http.body_sender import LARGEST_BLOCK

pytestmark = pytest.mark.promise("slow-downloads-cost-little")

UUID = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b22"
PACKED = "application/msgpack"
FAULTS = {"missing": 404, "fifo": 400, "secret.key": 403, "plugins": 400, "../../etc/passwd": 404}

SHOWN = {400: 417, 403: 417, 404: 404}


async def curl(daemon: ReceivingNode, path: str, *arguments: str) -> tuple[int, bytes]:
    """Send a request as the Panel does; return the status and the body."""
    return await daemon.fetch(f"/api/servers/{UUID}/files/{path}", *arguments)


@pytest.fixture
def home(daemon: ReceivingNode) -> Path:
    made = daemon.own(UUID)
    (made / "plugins").mkdir(parents=True)
    (made / "server.properties").write_text("motd=Hello\n")
    (made / "plugins/config.yml").write_text("a: 1\n")
    (made / "secret.key").write_text("secret")
    (made / "big").write_bytes(os.urandom(3 * LARGEST_BLOCK + 1))
    os.mkfifo(made / "fifo")
    return made


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in entries]


@pytest.mark.parametrize("family", ["pelican", "calagopus"])
async def test_each_call_answers_in_its_familys_dialect(
    daemon: ReceivingNode, home: Path, family: str
) -> None:
    await daemon.start_loaded(family=family)
    # Its Panel shows the text of these errors with this status only.
    faults = FAULTS if family != "calagopus" else {name: SHOWN[FAULTS[name]] for name in FAULTS}
    await check_calls(daemon, faults, "application/json", json.dumps, json.loads)
    if family == "calagopus":
        await check_calls(daemon, faults, PACKED, msgpack.packb, msgpack.unpackb)
    status, body = await curl(daemon, "contents?file=server.properties")
    assert (status, body) == (200, b"motd=Hello\n")


async def check_calls(
    daemon: ReceivingNode,
    faults: dict[str, int],
    form: str,
    encode: Callable[[Any], Any],
    decode: Callable[[bytes], Any],
) -> None:
    """Make each call with bodies in this format."""

    async def call(path: str, *arguments: str) -> tuple[int, Any]:
        status, body = await curl(daemon, path, "-H", f"Accept: {form}", *arguments)
        return status, decode(body)

    everything = ["plugins", "big", "fifo", "secret.key", "server.properties"]
    status, listed = await call("list-directory?directory=%2F")
    assert (status, names(listed)) == (200, everything)
    status, page = await call("list?directory=/&per_page=2&page=1")
    assert (status, names(page["entries"]), page["total"]) == (200, everything[:2], 4)
    status, found = await call("search?directory=/&pattern=*.yml")
    assert (status, names(found)) == (200, ["plugins/config.yml"])
    query = "algorithm=crc32&files=fifo&files=server.properties"
    status, found = await call(f"fingerprints?{query}")
    assert (status, list(found["fingerprints"])) == (200, ["server.properties"])
    content = {"query": "motd", "max_search_size": 99}
    encoded = encode({"root": "/", "per_page": 5, "content_filter": content})
    sent = daemon.directory / "sent"
    sent.write_bytes(encoded.encode() if isinstance(encoded, str) else encoded)
    post = ("-H", f"Content-Type: {form}", "--data-binary", f"@{sent}")
    status, found = await call("search", *post)
    assert (status, names(found["results"])) == (200, ["server.properties"])
    for file, expected in faults.items():
        status, error = await call(f"contents?file={file}")
        assert status == expected
        assert set(error) == {"error", "code", "request_id", "detail"}


async def test_a_large_file_arrives_whole_in_parts_and_after_a_client_has_gone(
    daemon: ReceivingNode, home: Path
) -> None:
    await daemon.start_loaded()
    content = (home / "big").read_bytes()
    assert await curl(daemon, "contents?file=big&download=1") == (200, content)
    assert await curl(daemon, "contents?file=big", "-r", "5-9") == (206, content[5:10])
    assert (await curl(daemon, "contents?file=big", "-r", f"{len(content)}-"))[0] == 416
    # A client that goes in the middle: no descriptor of the file is left.
    (home / "huge").touch()
    os.truncate(home / "huge", 1 << 30)
    command = ["-sS", "--cacert", str(daemon.ca), "--limit-rate", "1M", "--max-time", "1"]
    command += ["-o", "/dev/null", "-H", f"Authorization: Bearer {daemon.node.token}"]
    command += [f"{daemon.url}/api/servers/{UUID}/files/contents?file=huge"]
    _, _, status = await getProcessOutputAndValue("/usr/bin/curl", command, os.environ)
    assert status == 28  # its time was over
    await until(lambda: str(home / "huge") not in open_files(daemon.pid))


def open_files(pid: int) -> list[str]:
    """Return the paths of a process's descriptors."""
    directory = Path(f"/proc/{pid}/fd")
    return [os.readlink(each) for each in directory.iterdir() if each.is_symlink()]
