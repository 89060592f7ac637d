"""Files that browsers upload by signed URLs, over HTTP."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ClientCreator, Protocol

from tests.api.file_node import SignedSite
from tests.api.node import Reply, reactor
from tests.support.present import present
from tests.support.reactor import until
from tests.support.tokens import USER
from tests.support.workers import SynchronousWorkers
from wingsd.app.reload import Reload
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.config_file.updates import NodeSettings, PanelUpdates
from wingsd.errors import WingsdError
from wingsd.files.denylist import Denylist
from wingsd.files.uploads import FileRules, FormUpload
from wingsd.filesystem.openers import directory_opener
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import UsageCounter
from wingsd.servers.operations import Operation
from wingsd.threadio import Workers
from wingsd.util.serialization import structure

BOUNDARY = "----boundary"
MIB = 1 << 20
NO_FORM = "Failed to get multipart form data from request."


def part(content: bytes, filename: str | bytes | None = "a.txt", name: str = "files") -> bytes:
    """Return one part of a form as browsers write it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
    if filename is not None:
        raw = filename if isinstance(filename, bytes) else filename.encode()
        head += b'; filename="' + raw.replace(b'"', b"%22") + b'"'
        head += b"\r\nContent-Type: application/octet-stream"
    return head + b"\r\n\r\n" + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + END


async def upload(
    site: SignedSite, body: bytes, query: str = "", url: str = "", **headers: str
) -> Reply:
    return await site.call(
        "POST",
        (url or site.url("upload")) + query,
        body,
        Authorization=None,
        Content_Type=headers.pop("kind", f"multipart/form-data; boundary={BOUNDARY}"),
        **headers,
    )


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN, CALAGOPUS], indirect=True)
async def test_a_file_is_stored_in_its_directory(site: SignedSite) -> None:
    content = os.urandom(700_000)
    reply = await upload(site, form(part(content)), "&directory=/new/deep")
    assert (reply.status, reply.text) == (200, "{}" if site.family == CALAGOPUS else "")
    path = site.home / "new" / "deep" / "a.txt"
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    named = {"files": ["a.txt"]} if site.family == CALAGOPUS else {"file": "a.txt"}
    assert site.activity.entries == [
        ("server:file.uploaded", {**named, "directory": "/new/deep"}, USER, "127.0.0.1")
    ]


@pytest.mark.promise("saved-settings-are-in-force")
async def test_a_size_that_the_panel_changes_counts_at_once(
    site: SignedSite, tmp_path: Path
) -> None:
    path, node = tmp_path / "config.yml", site
    config = node.config
    path.write_text(
        f"{{token_id: {config.token_id}, token: {config.token}, remote: '{config.remote}',"
        " api: {upload_limit: 1}}\n"
    )
    live, workers = node.live, SynchronousWorkers()
    live.path = str(path)
    updates = PanelUpdates(live, cast("Workers", workers), Reload(live, lambda ssl: False))
    body = form(part(bytes((1 << 20) + 1)))
    assert (await upload(site, body)).status == 400

    settings = structure({"api": {"upload_limit": 2}}, NodeSettings)
    await updates.save(settings, {})
    updates.apply()
    assert (await upload(site, body)).status == 200


async def test_several_files_are_stored_and_other_fields_skipped(site: SignedSite) -> None:
    body = form(
        part(b"not a file", None),
        part(b"1", "1"),
        part(b"no", "x", name="picture"),
        part(b"", "empty"),
        part(b"", ""),
    )
    assert (await upload(site, body)).status == 200
    assert site.names() == ["1", "empty"]


@pytest.mark.parametrize("family", [CALAGOPUS], indirect=True)
async def test_calagopus_takes_any_field_and_paths(site: SignedSite) -> None:
    body = form(part(b"1", "world/region/r.0.mca", name="file"), part(b"2", "../../out"))
    assert (await upload(site, body, "&directory=saves")).status == 200
    assert [name for name in site.names() if (site.home / name).is_file()] == [
        "out",
        "saves/world/region/r.0.mca",
    ]


@pytest.mark.promise("refused-upload-leaves-nothing")
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("a/../b", "b"),
        ("..", "file-path-invalid"),
        (".", "file-path-invalid"),
        ("a/", "file-path-invalid"),
        ("a\0b", "file-path-invalid"),
        ("x" * 256, "file-name-too-long"),
        (b"caf\xe9", "upload-form-invalid"),
    ],
)
async def test_no_name_leads_out_of_the_directory(
    site: SignedSite, name: str | bytes, answer: str
) -> None:
    reply = await upload(site, form(part(b"x", name)))
    if reply.status == 200:
        assert site.names() == [answer]
    else:
        assert (reply.status, reply.json["code"]) == (400, answer)
        assert site.names() == []


@pytest.mark.promise("refused-upload-leaves-nothing")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        part(b"x"),
        part(b"x")[:-1] + b"--" + BOUNDARY.encode() + b"-",
        form(part(b"x")).replace(b"Content-Disposition", b"X"),
        form(part(b"x").replace(b"\r\n\r\nx", b"\r\nContent-Length: 2\r\n\r\nx")),
        form(part(b"x").replace(b"\r\n\r\nx", b"\r\nA: " + b"a" * 20_000 + b"\r\n\r\nx")),
        form(*[part(b"", None, name="n")] * 10_000),
    ],
)
async def test_a_form_that_is_cut_or_lies_is_refused_and_leaves_nothing(
    site: SignedSite, body: bytes
) -> None:
    reply = await upload(site, body)
    assert (reply.status, reply.json["error"]) == (400, NO_FORM)
    assert reply.json["detail"]
    assert site.names() == []
    assert site.activity.entries == []


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "multipart/form-data; b=1"])
async def test_what_is_no_form_is_refused(site: SignedSite, kind: str) -> None:
    reply = await upload(site, form(part(b"x")), kind=kind)
    assert (reply.status, reply.json["error"]) == (400, NO_FORM)


async def test_a_form_without_files_is_refused(site: SignedSite) -> None:
    reply = await upload(site, form(part(b"x", None)))
    assert reply.status == 400
    assert reply.json["error"] == "No files were found on the request body."


async def test_a_file_that_is_too_large_is_refused_and_those_before_it_kept(
    site: SignedSite,
) -> None:
    body = form(part(b"1", "1"), part(bytes(MIB + 1), "2"), part(b"3", "3"))
    reply = await upload(site, body)
    assert reply.status == 400
    assert reply.json["error"] == ("File 2 is larger than the maximum file upload size of 1 MB.")
    assert site.names() == ["1"]
    assert [entry[1] for entry in site.activity.entries] == [{"file": "1", "directory": "/"}]
    assert (await upload(site, form(part(bytes(MIB), "2")))).status == 200


class Talk(Protocol):
    """A connection on which a test speaks HTTP itself."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def send(self, data: bytes) -> None:
        present(self.transport).write(data)

    def close(self) -> None:
        present(self.transport).loseConnection()

    async def until(self, wanted: bytes) -> bytes:
        await until(lambda: wanted in self.received)
        return self.received


async def talk(site: SignedSite, length: int, url: str, *headers: str) -> Talk:
    creator: Any = ClientCreator(reactor, Talk)
    made: Talk = await creator.connectTCP("127.0.0.1", site.port)
    head = [
        f"POST {url} HTTP/1.1",
        "Host: node",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {length}",
        *headers,
    ]
    made.send("\r\n".join([*head, "", ""]).encode())
    return made


async def begun(site: SignedSite) -> Talk:
    """Return an upload of which a part is on the disk."""
    made = await talk(site, 10_000, site.url("upload"))
    made.send(part(b"x" * 1000))
    await until(site.names)
    return made


@pytest.mark.parametrize("query", ["", "&total_size=2000000"])
async def test_a_page_learns_with_the_first_bytes_that_its_file_is_too_large(
    site: SignedSite, query: str
) -> None:
    url = site.url("upload")
    page = "Origin: https://panel.example.com"
    made = await talk(site, 2 * MIB, url + query, page)
    made.send(part(b"the first bytes", "map.zip")[:-2])
    answer = await made.until(b'"request_id"')
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Access-Control-Allow-Origin: https://panel.example.com" in answer
    assert b"File map.zip is larger than the maximum file upload size of 1 MB." in answer
    made.close()
    assert site.names() == []
    # The address is still good.
    assert (await upload(site, form(part(b"x")), url=url)).status == 200


async def test_an_upload_that_breaks_off_leaves_nothing(site: SignedSite) -> None:
    made = await begun(site)
    made.transport.abortConnection()  # type: ignore[union-attr]
    await until(lambda: not site.names())
    assert site.activity.entries == []


async def test_a_transfer_that_begins_meanwhile_ends_the_upload(site: SignedSite) -> None:
    made = await begun(site)
    site.files.operations.place_hold(Operation.TRANSFER_OUT, "it is being sent")
    made.send(b"x" * 1000)
    answer = await made.until(b'"request_id"')
    assert b"server is currently being transferred" in answer
    made.close()
    assert site.names() == []


async def test_a_token_uploads_once_also_if_it_is_used_twice_at_once(site: SignedSite) -> None:
    url = site.url("upload")
    sent = [Deferred.fromCoroutine(upload(site, form(part(b"x")), url=url)) for _ in range(4)]
    replies: list[Reply] = await gatherResults(sent)
    assert sorted(reply.status for reply in replies) == [200] + [404] * 3
    # Not with a range either: that is for downloads.
    assert (await upload(site, form(part(b"x")), url=url, Range="bytes=0-")).status == 404


async def test_no_other_token_uploads(site: SignedSite) -> None:
    for url, status in (
        ("/upload/file", 401),
        ("/upload/file?token=a.b.c", 401),
        (site.url("upload", exp=1), 401),
        (site.url("upload", "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"), 404),
        (site.url("upload", scope="file-download"), 404),
        (site.url("upload", file_path="a"), 404),
    ):
        assert (await upload(site, form(part(b"x")), url=url)).status == status
    assert site.names() == []


async def test_what_is_denied_or_in_the_way_is_not_written(site: SignedSite) -> None:
    site.files.deny("*.jar", "/plugins")
    (site.home / "plugins").mkdir()
    (site.home / "link").symlink_to("plugins")
    (site.home / "out").symlink_to("/tmp")
    (site.home / "directory").mkdir()
    before = site.names()
    for directory, name, status, code in (
        ("", "a.jar", 403, "file-denied"),
        ("plugins", "a", 403, "file-denied"),
        ("link", "a", 403, "file-denied"),
        ("out", "a", 404, "file-missing"),
        ("", "directory", 400, "file-name-conflict"),
    ):
        reply = await upload(site, form(part(b"x", name)), f"&directory={directory}")
        assert (reply.status, reply.json["code"]) == (status, code), (directory, name)
    url = site.url("upload", ignored_files=["*.key"])
    reply = await upload(site, form(part(b"x", "b.key")), url=url)
    assert (reply.status, reply.json["code"]) == (404, "file-missing")
    assert site.names() == before


def test_a_file_beyond_the_disk_limit_is_refused_when_its_size_is_known(tmp_path: Path) -> None:
    usage = UsageCounter(used=0, limit=100)
    rules = FileRules(1, Denylist(), Denylist())
    with ServerRoot(str(tmp_path), directory_opener("auto"), None, usage) as root:
        for expected, content in ((101, b""), (0, bytes(101))):
            made = FormUpload(
                f"multipart/form-data; boundary={BOUNDARY}", ServerPath(), rules, expected=expected
            )
            with pytest.raises(WingsdError) as caught:
                made.receive(root, [part(content)])
            assert caught.value.code == "disk-limit-exceeded"
            assert (usage.used, [*tmp_path.iterdir()]) == (0, [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(max_size=50), max_size=3), st.sets(st.integers(1, 700), max_size=5))
def test_what_is_stored_does_not_depend_on_the_cuts(
    tmp_path: Path, contents: list[bytes], places: set[int]
) -> None:
    body = form(*(part(content, str(at)) for at, content in enumerate(contents)), part(b"", "z"))
    cuts = [0, *sorted(place for place in places if place < len(body)), len(body)]
    rules = FileRules(0, Denylist(), Denylist())
    with ServerRoot(str(tmp_path), directory_opener("auto")) as root:
        made = FormUpload(f"multipart/form-data; boundary={BOUNDARY}", ServerPath(), rules)
        for at in range(len(cuts) - 1):
            made.receive(root, [body[cuts[at] : cuts[at + 1]]])
        made.close()
    for at, content in enumerate(contents):
        assert (tmp_path / str(at)).read_bytes() == content
