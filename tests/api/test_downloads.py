"""Files and backups that browsers download by signed URLs, over HTTP."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.api.file_node import FileServer, SignedSite
from tests.api.node import UUID, Reply
from tests.support.tokens import USER
from wingsd.auth.tokens import user_key
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.servers.operations import Operation

OTHER = "0c4c5e1c-6e2b-4c43-9d57-8d2f5a147f10"
BACKUP = "5b8c1f0a-0c0e-4c57-9d5e-3f1d2b7a6c11"
VOID = "The requested resource was not found on this server."
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def site(site: SignedSite, family: str) -> SignedSite:
    (site.home / "a.bin").write_bytes(CONTENT)
    return site


async def test_a_file_is_downloaded_with_its_name(site: SignedSite) -> None:
    reply = await site.fetch(site.url("file", file_path="/a.bin"))
    assert (reply.status, reply.content) == (200, CONTENT)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-disposition"] == (
        "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"
    )


@pytest.mark.promise("signed-url-is-used-once")
async def test_a_token_that_is_used_twice_at_once_is_good_once(site: SignedSite) -> None:
    url = site.url("file", file_path="a.bin")
    gets = [Deferred.fromCoroutine(site.fetch(url)) for _ in range(6)]
    replies: list[Reply] = await gatherResults(gets)
    assert sorted(reply.status for reply in replies) == [200] + [404] * 5


@pytest.mark.parametrize("family", [CALAGOPUS], indirect=True)
async def test_calagopus_address_is_good_as_often_as_configured(site: SignedSite) -> None:
    url = site.url("file", file_path="a.bin")
    statuses = [(await site.fetch(url)).status for _ in range(6)]
    assert statuses == [200] * 5 + [404]


async def test_a_download_is_resumed_with_a_range(site: SignedSite) -> None:
    url = site.url("file", file_path="a.bin")
    whole = await site.fetch(url)
    etag = whole.headers["etag"]
    part = await site.fetch(url, Range="bytes=1000-1999", If_Range=etag)
    assert (part.status, part.content) == (206, CONTENT[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(CONTENT)}"
    changed = await site.fetch(url, Range="bytes=1000-", If_Range='"other"')
    assert (changed.status, changed.content) == (200, CONTENT)


async def test_what_sends_no_file_uses_no_token(site: SignedSite) -> None:
    url = site.url("file", file_path="a.bin")
    head = await site.fetch(url, "HEAD")
    assert (head.status, head.content) == (200, b"")
    behind = await site.fetch(url, Range=f"bytes={len(CONTENT)}-")
    assert (behind.status, behind.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    (site.home / "a.bin").rename(site.home / "b.bin")
    assert (await site.fetch(url)).status == 404
    (site.home / "b.bin").rename(site.home / "a.bin")
    assert (await site.fetch(url)).status == 200


@pytest.mark.parametrize("family", [PTERODACTYL, PELICAN, CALAGOPUS], indirect=True)
async def test_the_denylist_and_what_a_user_may_not_see_hold(site: SignedSite) -> None:
    site.files.deny("*.bin")
    reply = await site.fetch(site.url("file", file_path="a.bin"))
    assert (reply.status, reply.json["code"]) == (403, "file-denied")
    (site.home / "b.key").touch()
    (site.home / "plugins").mkdir()
    (site.home / "link").symlink_to("plugins")
    (site.home / "plugins" / "c").touch()
    site.files.deny("*.bin", "/plugins")
    reply = await site.fetch(site.url("file", file_path="link/c"))
    assert (reply.status, reply.json["code"]) == (403, "file-denied")
    url = site.url("file", file_path="b.key", ignored_files=["*.key"])
    assert (await site.fetch(url)).json["code"] == "file-missing"


@pytest.mark.parametrize("what", ["file", "backup"])
async def test_what_is_not_granted_is_refused_by_its_reason(site: SignedSite, what: str) -> None:
    claims = {"file_path": "a.bin"} if what == "file" else {"backup_uuid": BACKUP}
    now = int(time.time())
    cases: tuple[tuple[dict[str, Any], int, str], ...] = (
        ({"exp": now - 1}, 401, "token-expired"),
        ({"nbf": now + 60}, 401, "token-invalid"),
        ({"iat": None}, 401, "token-invalid"),
        ({"server": OTHER}, 404, "signed-url-void"),
        ({"scope": "websocket"}, 404, "signed-url-void"),
    )
    for changed, status, code in cases:
        server = changed.pop("server", UUID)
        reply = await site.fetch(site.url(what, server, **claims | changed))
        assert (reply.status, reply.json["code"]) == (status, code), changed
    unsigned = await site.fetch(f"/download/{what}?token=a.b.c")
    assert (unsigned.status, unsigned.json["code"]) == (401, "token-invalid")
    for nothing in ("", "?token=", "?token=%ff"):
        assert (await site.fetch(f"/download/{what}{nothing}")).status == 401
    site.denied.deny([user_key(USER, UUID)], time.time() + 60)
    assert (await site.fetch(site.url(what, **claims))).json["error"] == VOID


async def test_a_server_may_be_suspended_or_busy(site: SignedSite) -> None:
    site.files.operations.place_hold(Operation.DELETE, "it is being deleted")
    reply = await site.fetch(site.url("file", file_path="a.bin"))
    assert (reply.status, reply.json["code"]) == (409, "server-busy")
    site.files.suspended = True
    reply = await site.fetch(site.url("file", file_path="a.bin"))
    assert (reply.status, reply.json["error"]) == (403, "server is suspended")


@pytest.mark.parametrize("place", [f"{BACKUP}.tar.gz", f"{UUID}/{BACKUP}.tar.gz", f"{BACKUP}.zip"])
async def test_a_backup_is_downloaded_from_either_place(site: SignedSite, place: str) -> None:
    path = site.backups / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(CONTENT)
    url = site.url("backup", backup_uuid=BACKUP)
    reply = await site.fetch(url)
    assert (reply.status, reply.content) == (200, CONTENT)
    assert f'filename="{path.name}"' in reply.headers["content-disposition"]
    assert (await site.fetch(url)).json["error"] == VOID
    assert (await site.fetch(url, Range="bytes=5-9")).content == CONTENT[5:10]


async def test_another_servers_backup_and_what_is_none_are_not_found(site: SignedSite) -> None:
    site.servers.known[OTHER] = FileServer(site.calls, site.home)
    get = partial(site.fetch, site.url("backup", backup_uuid=BACKUP))
    assert (await get()).json["code"] == "backup-missing"
    (site.backups / OTHER).mkdir()
    (site.backups / OTHER / f"{BACKUP}.tar.gz").write_bytes(b"secret")
    (site.backups / UUID).symlink_to(OTHER)
    (site.backups / f"{BACKUP}.tar.gz").symlink_to(f"{OTHER}/{BACKUP}.tar.gz")
    os.mkfifo(site.backups / f"{BACKUP}.zip")
    (site.backups / f"{BACKUP}.7z").mkdir()
    reply = await get()
    assert reply.status == 404
    assert reply.json["error"] == "The requested backup was not found on this server."
    url = site.url("backup", OTHER, backup_uuid=BACKUP)
    assert (await site.fetch(url)).content == b"secret"


@pytest.mark.parametrize("family", [CALAGOPUS], indirect=True)
async def test_a_backup_of_calagopus_needs_no_server(site: SignedSite) -> None:
    (site.backups / OTHER).mkdir()
    (site.backups / OTHER / f"{BACKUP}.tar.gz").write_bytes(b"moved here")
    url = site.url("backup", None, backup_uuid=BACKUP)
    assert (await site.fetch(url)).content == b"moved here"
