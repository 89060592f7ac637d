"""A store from which nothing comes any more does not keep a restore waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.http_client.fetching import make_client
from tests.support.backup_store import BackupStore
from tests.support.node_process import NodeProcess
from tests.support.panel import Panel
from tests.support.reactor import reactor
from wingsd.errors import DaemonStopping, DownloadFailed
from wingsd.http_client.download import FetchLimits
from wingsd.restores.content import DownloadedArchive, RestoreLinks

DATA = bytes(range(256)) * 400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupStore]:
    node = NodeProcess(tmp_path, Panel())
    monkeypatch.setenv("SSL_CERT_FILE", str(node.ca))
    made = BackupStore(DATA, node)
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


async def opened(store: BackupStore, name: str, idle: float = 10) -> DownloadedArchive:
    links = RestoreLinks(make_client(), reactor, FetchLimits(idle=idle))
    archive = await links.open(f"{store.url}/{name}")
    archive.begin()
    return archive


async def test_an_archive_is_read_as_it_arrives(store: BackupStore) -> None:
    archive = await opened(store, "slow")
    assert b"".join(await deferToThread(lambda: list(archive.blocks()))) == DATA
    archive.close()


@pytest.mark.promise("bad-backup-changes-nothing")
async def test_a_store_that_falls_silent_fails_the_download(store: BackupStore) -> None:
    archive = await opened(store, "stalled", idle=0.2)
    with pytest.raises(DownloadFailed):
        await deferToThread(lambda: list(archive.blocks()))
    archive.close()


async def test_a_download_that_is_aborted_ends_for_that_reason(store: BackupStore) -> None:
    archive = await opened(store, "stalled")
    reading = deferToThread(lambda: list(archive.blocks()))
    archive.abort(DaemonStopping())
    with pytest.raises(DaemonStopping):
        await reading
    archive.close()
