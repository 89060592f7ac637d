"""Nodes in one process that servers are moved between by hand: all of it but Panel and engine.

Files, threads and HTTP on loopback are real; a station can be stopped as if it were
killed, and another one take its place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import deferLater

from tests.api.node import api
from tests.direct_transfers.fakes import LossyRequest, SilentPanel
from tests.support import (
    FakeEnvironment,
    SynchronousWorkers,
    process_configuration,
    server_settings,
)
from tests.support.recording_observer import RecordingObserver
from wingsd.archive import ArchiveLimits, Compression
from wingsd.auth.tokens import DenyList
from wingsd.backups.local import Removal
from wingsd.backups.received import ReceivedBackups
from wingsd.config import (
    PTERODACTYL,
    Config,
    Control,
    FormConfig,
    StreamsConfig,
    SystemConfig,
    TransfersConfig,
)
from wingsd.control import ControlApi, ControlListener
from wingsd.control.status import Activity, Probes, StatusEndpoint
from wingsd.control.transfers import (
    ControlTransfersEndpoint,
    ReceiveEndpoint,
    SendEndpoint,
    TransferEndpoint,
    TransferList,
)
from wingsd.direct_transfers import (
    DirectServers,
    DirectTransfers,
    IncomingDirectTransfers,
    OutgoingDirectTransfers,
)
from wingsd.direct_transfers.incoming import Invitation
from wingsd.docker.runtime import EngineInformation
from wingsd.egg_files.rewriters import Rewriters
from wingsd.events import EventBus
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite
from wingsd.servers import Servers
from wingsd.statedb import StateDatabase, TransferRecord
from wingsd.statedb.store import Store
from wingsd.threadio import Workers
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.outgoing.payload import SourceStorage
from wingsd.transfers.outgoing.transfer import SourceServers
from wingsd.transfers.outgoing.upload import Uploader
from wingsd.transfers.panel_callbacks import CallbackQueue
from wingsd.transfers.peer.client import Peers
from wingsd.transfers.peer.tls import PeerTls
from wingsd.transfers.recovery import PanelOutcomes, Recovery, clear_leftovers
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Staging

__all__ = ["UUID", "Station", "description", "reactor", "until"]

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
reactor: Any = installed_reactor


def description(**settings: Any) -> dict[str, Any]:
    """Return what a Panel would say of the server."""
    return {
        "settings": server_settings(UUID, **settings),
        "process_configuration": process_configuration(),
    }


async def until(so: Callable[[], bool]) -> None:
    """Return when it is so."""
    for _ in range(2000):
        if so():
            return
        await deferLater(reactor, 0.005)
    raise AssertionError("it never came to that")


class Station:
    """A node in `directory`; what is on its disk outlives it."""

    def __init__(
        self, directory: Path, pool: Workers, port: int = 0, system: SystemConfig | None = None
    ) -> None:
        """What `system` has of directories is its own; by default they are in `directory`."""
        self.directory = directory
        system = system or SystemConfig(data=str(directory / "volumes"))
        self.data = Path(system.data)
        self.config = Config(
            token_id="id",
            token=f"the-secret-token-of-the-node-{directory.name}",
            remote="https://panel.invalid",
            system=attrs.evolve(system, root_directory=str(directory)),
        )
        self.panel = SilentPanel()
        self.environment = FakeEnvironment()
        self.engine: Callable[[], Awaitable[EngineInformation]] | None = None
        self.bus = EventBus()
        self.store = Store(str(directory))
        self.store.open()
        # In this thread: tests read the store, and close it, whatever goes on.
        writer: Any = SynchronousWorkers()
        self.journal = StateDatabase(self.store, writer, time.time)
        panel: Any = self.panel
        self.outbox = CallbackQueue(panel, self.journal, reactor)
        owner = (os.getuid(), os.getgid())
        eggs = Rewriters(pool, pool)
        self.servers = Servers(
            self.config,
            panel,
            self.environment,
            self.bus,
            disk=pool,
            rewriters=eggs,
            owner=owner,
            reactor=reactor,
        )
        storage_pool = system.transfers.storage_pool.name
        node = directory.name if storage_pool else ""
        self.staging = Staging(str(self.data), owner, durable=False, node=node)
        self.staging.prepare()
        backups = str(directory / "backups")
        self.backups = ReceivedBackups(backups, str(self.data), durable=False, reserve=0)
        self.volume = Volume(str(self.data), owner, storage_pool)
        self.logs = InstallLogs(str(self.directory / "logs"), self.staging, reserve=0)
        self.heard = RecordingObserver()
        self.step_logs = StepLogs(self.journal, self.bus, self.heard, reactor)
        self._pool = pool
        #: Servers that are received at a time.
        self.slots = DeferredSemaphore(1)
        self.quarantine = Quarantine(self.staging, self.backups, pool, self.journal, days=30)
        self.coordinators = PanelCoordinators(panel, self.outbox, reactor, PTERODACTYL)
        self.receiver = self._make_receiver(owner)
        self.source_servers = SourceServers(
            servers=self.servers,
            environment=self.environment,
            quarantine=self.quarantine,
            backups=Removal(backups, pool),
            database=self.journal,
        )
        self.source_storage = SourceStorage(
            directory=self.servers.directory,
            backup_directory=backups,
            logs=self.logs,
            volume=self.volume,
            disk=pool,
            compression=Compression.BEST_SPEED,
        )
        self.sender = self._make_sender()
        self.direct_transfers = self._make_direct_transfers(storage_pool)
        #: Whether a request's answer is lost on its way.
        self.lose: Callable[[StreamingRequest], bool] = lambda _: False
        self._listen(port)

    def _make_receiver(self, owner: tuple[int, int]) -> IncomingTransfers:
        pool = self._pool
        return IncomingTransfers(
            self.coordinators,
            self.step_logs,
            IncomingStorage(
                staging=self.staging,
                backups=self.backups,
                logs=self.logs,
                volume=self.volume,
                quarantine=self.quarantine,
                disk=pool,
                reactor=reactor,
            ),
            Extraction(
                workers=pool,
                slots=self.slots,
                owner=owner,
                limits=ArchiveLimits.configured(TransfersConfig()),
                form=FormConfig(),
                reactor=reactor,
            ),
            self.environment,
            self.servers,
            reactor,
            TransfersConfig(concurrent=1, waiting=2, stall_timeout=120),
        )

    def _make_sender(self) -> OutgoingTransfers:
        return OutgoingTransfers(
            reactor=reactor,
            coordinators=self.coordinators,
            step_logs=self.step_logs,
            peers=Peers(reactor, PeerTls()),
            servers=self.source_servers,
            storage=self.source_storage,
            uploader=Uploader(reactor, self._pool, DeferredSemaphore(2), stall_timeout=120),
            stop_grace=60,
        )

    def _make_direct_transfers(self, storage_pool: str) -> DirectTransfers:
        peers = Peers(reactor, PeerTls())
        direct = DirectServers(self.servers, self.journal, self.bus, self._pool, storage_pool)
        return DirectTransfers(
            direct,
            IncomingDirectTransfers(direct, self.receiver, self.journal, self.config, time.time),
            OutgoingDirectTransfers(
                direct, self.servers, self.sender, self.journal, peers, reactor
            ),
        )

    def _listen(self, port: int) -> None:
        root = api(
            self.config,
            servers=self.servers,
            sender=self.sender,
            receiver=self.receiver,
            streams=StreamGroups(self.receiver, self.journal, StreamsConfig(), reactor),
            database=self.journal,
            direct=self.direct_transfers.incoming,
            denied=DenyList(0),
            engine=self.engine,
        )
        site: Any = NodeSite(root, reactor=reactor, timeout=60)
        site.requestFactory = LossyRequest
        site.lose = self._loses
        self._site = site
        self._port = reactor.listenTCP(port, site, interface="127.0.0.1")

    def _loses(self, request: StreamingRequest) -> bool:
        return self.lose(request)

    @property
    def port(self) -> int:
        """Where it listens."""
        number: int = self._port.getHost().port
        return number

    def status(self) -> partial[StatusEndpoint]:
        """Return the endpoint of this node's status."""
        panel: Any = self.panel
        engine, staging = self.engine, self.staging.path
        probes = Probes(self.config, panel, engine, self._pool, staging, reactor)
        arrivals = self.direct_transfers.incoming
        activity = Activity(self.servers, self.receiver, self.sender, arrivals, self.outbox)
        return partial(
            StatusEndpoint, self.config, lambda: self.url, lambda: 0.0, probes, activity
        )

    def control(self, settings: Control) -> ControlListener:
        """Return this node's control socket."""
        config, database, direct = self.config, self.journal, self.direct_transfers
        transfers = TransferList(database, self.receiver, self.sender, direct, time.time())
        endpoints: list[partial[Any]] = [
            self.status(),
            partial(ControlTransfersEndpoint, config, transfers),
            partial(TransferEndpoint, config, transfers, self.servers),
            partial(ReceiveEndpoint, config, direct, database, self._pool, lambda: self.url),
            partial(SendEndpoint, config, direct, database),
        ]
        return ControlListener(settings, ControlApi(endpoints), reactor)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def die_at(self, last: str) -> None:
        """Have every transfer stop for good once a step is written down, as if it were killed."""
        enter = self.journal.enter

        def dies(transfer: int, step: str) -> Deferred[None]:
            written = enter(transfer, step)
            return written.addCallback(lambda _: Deferred()) if step == last else written

        self.journal.enter = dies

    async def invite(self, **options: Any) -> Invitation:
        """Expect the server."""
        return await self.direct_transfers.incoming.expect(UUID, **{"seconds": 60} | options)

    async def recover(self) -> None:
        """Take up what an earlier station in this directory left, as a node does at its start."""
        unfinished: list[TransferRecord] = self.store.unfinished()
        clear_leftovers(unfinished, self.staging, self.backups)
        await self.direct_transfers.load(unfinished)
        recovery = Recovery(
            unfinished,
            receiver=self.receiver,
            servers=self.servers,
            storage=self.source_storage,
            step_logs=self.step_logs,
            panel=PanelOutcomes(
                self.coordinators, self.receiver, self.sender, self.source_servers, self.journal
            ),
            direct=self.direct_transfers,
        )
        recovery.begin()

    def entries(self) -> list[tuple[str, str | None]]:
        """Return the transfers of the journal: which way, and how they ended."""
        return [
            (entry.direction.value, entry.outcome and entry.outcome.value)
            for entry in self.store.transfers()
        ]

    def is_at_rest(self) -> bool:
        """Whether nothing is under way, and all of it is written down."""
        under_way = self.sender.servers or self.receiver.servers
        return not under_way and not self.store.unfinished()

    def left(self) -> list[str]:
        """Return what there is of servers here, in place and on the way."""
        places = (self.data, Path(self.staging.path))
        names = [path.name for place in places for path in place.iterdir()]
        return sorted(name for name in names if name != ".lock")

    async def close(self) -> None:
        """End it."""
        await self._port.stopListening()
        await self._site.drain(0)
        await self.servers.stop()
        self.store.close()
        self.staging.close()
