"""The document's client examples: curl's is in every test beside this, the others are here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import requests
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive, sha256

NODE = shutil.which("node") or ""

# The document's JavaScript, with the file that a browser's user would have picked.
JAVASCRIPT = """
const [url, token, path, checksum] = process.argv.slice(2);
const archiveFile = await (await import("node:fs")).openAsBlob(path);

const formData = new FormData();
formData.append('archive', archiveFile);
formData.append('checksum', checksum);

const response = await fetch(`${url}/api/transfers`, {
  method: 'POST',
  headers: {
    'Authorization': `Bearer ${token}`
  },
  body: formData
});
console.log(response.status, await response.text());
"""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "server-archive.tar.gz"
    path.write_bytes(archive(2_000_000))
    return path


def post_with_requests(daemon: ReceivingNode, path: Path, checksum: str) -> tuple[int, str]:
    with path.open("rb") as stream:
        files = {
            "archive": ("archive.tar.gz", stream, "application/gzip"),
        }
        data = {"checksum": checksum}
        response = requests.post(
            f"{daemon.url}/api/transfers",
            headers={"Authorization": f"Bearer {daemon.token()}"},
            files=files,
            data=data,
            verify=str(daemon.ca),
            timeout=30,
        )
    return response.status_code, response.text


async def test_the_documents_python_client_uploads(running: ReceivingNode, packed: Path) -> None:
    answer = await deferToThread(post_with_requests, running, packed, sha256(packed.read_bytes()))
    assert answer == (200, "")
    assert running.panel.reports() == [(UUID, "success")]


@pytest.mark.skipif(
    not NODE and os.environ.get("CI") != "true", reason="there is no node on this machine"
)
async def test_the_documents_javascript_uploads(running: ReceivingNode, packed: Path) -> None:
    script = running.directory / "upload.mjs"
    script.write_text(JAVASCRIPT)
    arguments = [
        str(script),
        running.url,
        running.token(),
        str(packed),
        sha256(packed.read_bytes()),
    ]
    trust = {**os.environ, "NODE_EXTRA_CA_CERTS": str(running.ca)}
    out, err, _ = await getProcessOutputAndValue(NODE, arguments, trust)
    assert out.decode().split() == ["200"], err.decode()
    assert running.panel.reports() == [(UUID, "success")]
