"""The fake Panel, and wingsd's client of it."""

from __future__ import annotations

from tests.support import Panel as FakePanel
from tests.support import server_settings
from tests.support.reactor import reactor
from wingsd.config import PTERODACTYL, Config, RemoteQuery
from wingsd.panel.client import Panel
from wingsd.util.observer import Observer

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Harness:
    """The fake Panel, listening, and wingsd's client as the node `here`."""

    def __init__(self) -> None:
        self.fake = FakePanel(strict=True)
        self.here = self.fake.add_node("https://here.invalid:8080")
        self.there = self.fake.add_node("https://there.invalid:8080")
        self.fake.add_server(server_settings(UUID), self.there)

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
