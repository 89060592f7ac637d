"""Backups in a store that speaks HTTPS are restored by a real daemon, whatever the store does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.daemon.restoring import BACKUP, BEFORE, BROKEN, RestoringNode
from tests.support.backup_store import BackupStore
from tests.support.backups import packed_backup
from tests.support.receiving_node import ReceivingNode
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL

REFUSED = {
    "page": 'a supported content type. "text/html; charset=utf-8" is not application/x-gzip.',
    "untyped": 'a supported content type. "" is not application/x-gzip.',
    "missing": "returned an invalid response status: 404 Not Found",
    "into-the-nodes-network": "resolves to a blocked address.",
    "circle": "redirects too many times.",
}
#: What is found out while it is read, and what users are told.
FAILING = {
    "cut": "The file could not be downloaded",
    "disguised-page": "the archive is of an unknown kind",
}


@pytest.fixture
def restoring(daemon: ReceivingNode) -> RestoringNode:
    daemon.variables["SSL_CERT_FILE"] = str(daemon.ca)
    return RestoringNode(daemon)


@pytest.fixture
def store(daemon: ReceivingNode) -> Iterator[BackupStore]:
    made = BackupStore(packed_backup(BEFORE), daemon)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


KEY = "system.backups.restore_host_allowlist"
BLOCKED = "The provided backup link resolves to a blocked address."
ALLOWED = {"system": {"backups": {"restore_host_allowlist": ["127.0.0.1/32"]}}}


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_a_backup_in_s3_is_read_wholly_before_anything_is_changed(
    restoring: RestoringNode, store: BackupStore
) -> None:
    await restoring.start(**ALLOWED)
    browser = await restoring.watch()
    path = f"/backup/{BACKUP}/restore"
    request = {"adapter": "s3", "truncate_directory": True}
    for name, error in REFUSED.items():
        status, told = await restoring.ask(
            "POST", path, request | {"download_url": f"{store.url}/{name}"}
        )
        assert (status, told["error"].partition("The provided backup link ")[0]) == (400, "")
        assert told["error"].endswith(error)
    assert restoring.staged() == []
    for name, error in FAILING.items():
        assert await restoring.restore(**request, download_url=f"{store.url}/{name}") is False
        said = [event.args[0] for event in browser.events if event.event == "daemon message"]
        assert error in said[-1]
    assert restoring.content() == BROKEN
    await browser.close()


@pytest.mark.parametrize("name", ["ok", "also-ok", "slow", "redirected"])
async def test_a_backup_in_s3_is_restored(
    restoring: RestoringNode, store: BackupStore, name: str
) -> None:
    await restoring.start(**ALLOWED)
    browser = await restoring.watch()
    request = {"adapter": "s3", "truncate_directory": True, "download_url": f"{store.url}/{name}"}
    assert await restoring.restore(**request) is True
    assert restoring.content() == BEFORE
    await browser.wait_for("daemon message", "Completed server restoration from S3 backup.")
    await browser.close()


@pytest.mark.promise("s3-links-are-checked")
@pytest.mark.parametrize("family", [PTERODACTYL, CALAGOPUS])
async def test_where_no_node_of_the_family_checks_the_panels_link_may_be_private(
    restoring: RestoringNode, store: BackupStore, family: str
) -> None:
    """The link itself; what it redirects to may not."""
    await restoring.start(family=family)
    request = {"adapter": "s3", "truncate_directory": True}
    url = f"{store.url}/redirected"
    status, told = await restoring.ask(
        "POST", f"/backup/{BACKUP}/restore", request | {"download_url": url}
    )
    assert (status, told["error"], KEY in told["detail"]) == (400, BLOCKED, True)
    assert store.asked == ["/redirected"]
    assert await restoring.restore(**request, download_url=f"{store.url}/ok") is True
    assert restoring.content() == BEFORE


@pytest.mark.promise("s3-links-are-checked")
async def test_a_store_on_the_nodes_own_network_is_not_asked_unless_it_is_allowed(
    restoring: RestoringNode, store: BackupStore
) -> None:
    await restoring.start(family=PELICAN)
    request = {"adapter": "s3", "download_url": f"{store.url}/ok"}
    status, told = await restoring.ask("POST", f"/backup/{BACKUP}/restore", request)
    assert (status, told["error"], KEY in told["detail"]) == (400, BLOCKED, True)
    assert store.asked == []
    assert "127.0.0.1" in await restoring.daemon.wait_for_line(KEY)
