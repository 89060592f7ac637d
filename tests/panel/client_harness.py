"""The fake Panel, and wingsd's client of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support import Panel as FakePanel
from tests.support import server_settings
from tests.support.reactor import reactor
from wingsd.config import PTERODACTYL, Config, RemoteQuery
from wingsd.panel import client as panel_module
from wingsd.panel.client import Panel
from wingsd.util.observer import Observer
from wingsd.util.retry import Backoff

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Harness:
    """The fake Panel, listening, and wingsd's client as the node `here`."""

    def __init__(self) -> None:
        self.fake = FakePanel(strict=True)
        self.here = self.fake.add_node("https://here.invalid:8080")
        self.there = self.fake.add_node("https://there.invalid:8080")
        self.fake.add_server(server_settings(UUID), self.there)

    def add_servers(self, count: int, **settings: Any) -> list[str]:
        """Have the node so many servers more; return their UUIDs."""
        uuids = [f"00000000-0000-4000-8000-{number:012}" for number in range(count)]
        for uuid in uuids:
            self.fake.add_server(server_settings(uuid, **settings), self.here)
        return uuids

    def client(
        self, token: str | None = None, observer: Observer | None = None, family: str = PTERODACTYL
    ) -> Panel:
        config = Config(
            family=family,
            remote=self.fake.url + "/",
            token_id=self.here.token_id,
            token=token or self.here.token,
            remote_query=RemoteQuery(boot_servers_per_page=2),
        )
        return Panel(config, reactor, observer=observer)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setattr(panel_module, "BACKOFF", Backoff(0.001, 12.0, factor=1.5))
    made = Harness()
    pytest_twisted.blockon(Deferred.fromCoroutine(made.fake.listen(reactor)))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.fake.close()))
