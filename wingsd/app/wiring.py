"""Makes a node: each of its objects, with the collaborators it needs. Nothing runs yet."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredSemaphore

from wingsd.api import installations as api_installations
from wingsd.api import servers as api_servers
from wingsd.api import transfers as api_transfers
from wingsd.api.direct_transfers import DirectTransferEndpoint
from wingsd.api.routes import ApiRoot, InterfaceEndpoint, MetricsListener
from wingsd.api.system import AskEngine, SystemEndpoint
from wingsd.app.daemon import Listeners, Node, NodeStorage, NodeTransfers
from wingsd.app.process import PACKERS, Pools
from wingsd.archive import ArchiveLimits, Compression
from wingsd.auth.tokens import DenyList
from wingsd.backups.local import Removal
from wingsd.backups.received import ReceivedBackups
from wingsd.callbacks import CallbackQueue
from wingsd.config import CALAGOPUS, Config
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
from wingsd.docker.installer_spec import installer_environment
from wingsd.docker.runtime import (
    Environment,
    Installer,
    NoEnvironment,
    NoInstaller,
    engine_address,
)
from wingsd.events import EventBus
from wingsd.http.answers import AnswerStyle
from wingsd.http.listener import HttpListener
from wingsd.http.site import NodeSite
from wingsd.metrics import MovedBytes
from wingsd.panel.client import Panel
from wingsd.servers import Servers
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.install_files import InstallLog, ScriptDirectories
from wingsd.servers.installation import InstallParts
from wingsd.servers.installations import Installations
from wingsd.servers.quotas import ProjectQuotas
from wingsd.servers.running import RunningServers
from wingsd.statedb import StateDatabase, TransferRecord
from wingsd.statedb.store import Store
from wingsd.threadio import TokenBucket
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.outgoing.payload import SourceStorage
from wingsd.transfers.outgoing.transfer import SourceServers
from wingsd.transfers.outgoing.upload import Uploader
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.peer.tls import peer_tls
from wingsd.transfers.recovery import PanelOutcomes, Recovery
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Staging
from wingsd.util.reactor import Reactor
from wingsd.websocket import ConsoleSockets

if TYPE_CHECKING:
    from wingsd.metrics.exposition import Exposition
    from wingsd.metrics.recorder import Recorder

__all__ = ["Wiring", "make_node"]

MIB = 1024 * 1024


def make_node(config: Config, endpoint: str, reactor: Reactor) -> Node:
    """Return the node of a configuration, which listens at an endpoint description.

    Raises `ConfigError` when the configuration names invalid files.
    """
    return Wiring(config, endpoint, reactor).node()


class Wiring:
    """The objects of a node, each made once, from bottom to top."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor) -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        self._config = config
        self._reactor = reactor
        self.owner = (config.system.user.uid, config.system.user.gid)
        transfers = config.system.transfers
        self.pools = self._make_pools()
        pool = transfers.storage_pool.name
        # On a shared volume the directories of each node have its name.
        name, data = config.uuid if pool else "", config.system.data
        self.quotas = ProjectQuotas(data, enabled=config.system.quotas.enabled)
        self.staging = Staging(
            data,
            self.owner,
            durable=transfers.durable,
            node=name,
            prepare_directory=self.quotas.prepare,
        )
        self._directories = ServerDirectories.configured(config, self.owner, self.quotas)
        self.backups = ReceivedBackups.configured(config.system, config.uuid)
        self._volume = Volume(data, self.owner, pool, config.system.backup_directory)
        self._logs = InstallLogs.configured(config.system, self.staging)
        self._bus = EventBus()
        self._prometheus = self._make_prometheus()
        self.observer = self._make_observer()
        self.panel = self._make_panel()
        self.store = Store(config.system.root_directory)
        self.database = StateDatabase(self.store, self.pools.database, time.time)
        disk, days = self.pools.disk, transfers.quarantine_days
        self.quarantine = Quarantine(self.staging, self.backups, disk, self.database, days)
        self.callbacks = CallbackQueue(self.panel, self.database, reactor)
        self.denied = DenyList(time.time())
        self._environment = self._make_environment()
        self.installations = self._make_installations()
        self.servers = self._make_servers()
        self.running = RunningServers(self.database, self._bus, reactor)
        self._step_logs = StepLogs(self.database, self._bus, self.observer, self._reactor)
        self._coordinators = PanelCoordinators(
            self.panel, self.callbacks, reactor, config.family, transfers.answer_grace
        )
        self._peers = Peers(reactor, peer_tls(transfers.ca_file))
        self.receiver = self._make_receiver()
        self.streams = StreamGroups(self.receiver, self.database, transfers.streams, reactor)
        self._source_storage = self._make_source_storage()
        self._source_servers = self._make_source_servers()
        self.sender = self._make_sender()
        self.direct_transfers = self._make_direct_transfers()
        self._engine = self._ask_engine()
        self._http = HttpListener(config.api.ssl, endpoint, self._make_site(), reactor)
        self._control = self._make_control()
        self._metrics = MetricsListener(config, self._make_exposition(), reactor)

    def node(self) -> Node:
        """Return the node."""
        return Node(
            self._config,
            Listeners(self._http, self._metrics, self._control),
            NodeStorage(
                self.store,
                self.database,
                self.running,
                self.quotas,
                self.staging,
                self.backups,
                self.quarantine,
                self.denied,
            ),
            self.servers,
            NodeTransfers(
                self.receiver,
                self.sender,
                self.streams,
                self.direct_transfers,
                self.callbacks,
                self.make_recovery,
            ),
            self.pools,
            self.observer,
            self._reactor,
        )

    def _make_pools(self) -> Pools:
        return Pools(self._reactor, self._config.system.transfers)

    def _make_prometheus(self) -> Recorder | None:
        if not self._config.metrics.address:
            return None
        # Here, since the Prometheus client takes 1 MiB, which a node without metrics saves.
        from wingsd.metrics.recorder import Recorder  # noqa: PLC0415

        return Recorder()

    def _make_observer(self) -> MovedBytes:
        return self._prometheus or MovedBytes()

    def _make_panel(self) -> Panel:
        return Panel(self._config, self._reactor, observer=self.observer)

    def _make_environment(self) -> Environment:
        if not self._config.docker.enabled:
            return NoEnvironment()
        # Here, since docker-py and its libraries take 8 MiB, which a node without Docker saves.
        from wingsd.docker.environment import DockerEnvironment  # noqa: PLC0415

        return DockerEnvironment(self._config, self.pools.engine, self._reactor, self.observer)

    def _make_installer(self) -> Installer:
        if not self._config.docker.enabled:
            return NoInstaller()
        from wingsd.docker.installer import DockerInstaller  # noqa: PLC0415 (see above)

        return DockerInstaller(self._config, self.pools.engine, self._reactor, self.observer)

    def _make_installations(self) -> Installations:
        config = self._config
        parts = InstallParts(
            panel=self.panel,
            installer=self._make_installer(),
            scripts=ScriptDirectories(config.system.tmp_directory),
            log=partial(InstallLog.configured, config),
            variables=partial(installer_environment, config),
            database=self.database,
            disk=self.pools.disk,
            reactor=self._reactor,
            throttles=config.throttles,
            limit=config.docker.installer_limits.timeout,
        )
        shows_outcome = config.family == CALAGOPUS
        return Installations(parts, self.callbacks, shows_outcome=shows_outcome)

    def _make_servers(self) -> Servers:
        return Servers(
            self._config,
            self.panel,
            self._environment,
            self._bus,
            self.installations,
            storage=ServerStorage(self._directories, self.pools.disk),
            rewriters=self.pools.rewriters,
            reactor=self._reactor,
        )

    def _make_receiver(self) -> IncomingTransfers:
        return IncomingTransfers(
            coordinators=self._coordinators,
            step_logs=self._step_logs,
            storage=self._make_incoming_storage(),
            extraction=self._make_extraction(),
            environment=self._environment,
            servers=self.servers,
            reactor=self._reactor,
            limits=self._config.system.transfers,
        )

    def _make_incoming_storage(self) -> IncomingStorage:
        return IncomingStorage(
            staging=self.staging,
            backups=self.backups,
            logs=self._logs,
            volume=self._volume,
            quarantine=self.quarantine,
            disk=self.pools.disk,
            reactor=self._reactor,
        )

    def _make_extraction(self) -> Extraction:
        transfers = self._config.system.transfers
        return Extraction(
            workers=self.pools.extractors,
            slots=DeferredSemaphore(transfers.concurrent),
            owner=self.owner,
            limits=ArchiveLimits.configured(transfers),
            form=transfers.form,
            reactor=self._reactor,
        )

    def _make_source_storage(self) -> SourceStorage:
        system = self._config.system
        return SourceStorage(
            directory=self.servers.directory,
            backup_directory=system.backup_directory,
            logs=self._logs,
            volume=self._volume,
            disk=self.pools.disk,
            compression=Compression(system.backups.compression_level),
        )

    def _make_source_servers(self) -> SourceServers:
        return SourceServers(
            servers=self.servers,
            environment=self._environment,
            quarantine=self.quarantine,
            backups=Removal(self._config.system.backup_directory, self.pools.disk),
            database=self.database,
        )

    def _make_sender(self) -> OutgoingTransfers:
        return OutgoingTransfers(
            reactor=self._reactor,
            coordinators=self._coordinators,
            step_logs=self._step_logs,
            peers=self._peers,
            servers=self._source_servers,
            storage=self._source_storage,
            uploader=self._make_uploader(),
            stop_grace=self._config.system.transfers.stop_grace,
        )

    def _make_uploader(self) -> Uploader:
        transfers = self._config.system.transfers
        return Uploader(
            reactor=self._reactor,
            packers=self.pools.packers,
            slots=DeferredSemaphore(PACKERS),
            stall_timeout=transfers.stall_timeout,
            answer_timeout=transfers.answer_timeout,
            max_streams=min(transfers.streams.most, PACKERS - 1),
            bucket=self._bucket(transfers.upload_limit),
        )

    def _make_direct_transfers(self) -> DirectTransfers:
        config, database = self._config, self.database
        pool = config.system.transfers.storage_pool.name
        servers = DirectServers(self.servers, database, self._bus, self.pools.disk, pool)
        return DirectTransfers(
            servers,
            IncomingDirectTransfers(servers, self.receiver, database, config, time.time),
            OutgoingDirectTransfers(
                servers, self.servers, self.sender, database, self._peers, self._reactor
            ),
        )

    def make_recovery(self, unfinished: list[TransferRecord]) -> Recovery:
        """Return what resumes the unfinished transfers of an earlier daemon."""
        return Recovery(
            unfinished,
            receiver=self.receiver,
            servers=self.servers,
            storage=self._source_storage,
            step_logs=self._step_logs,
            panel=PanelOutcomes(
                self._coordinators,
                self.receiver,
                self.sender,
                self._source_servers,
                self.database,
            ),
            direct=self.direct_transfers,
        )

    # Listeners, and the paths behind them

    def _make_site(self) -> NodeSite:
        config = self._config
        transfers = config.system.transfers
        sockets = ConsoleSockets(config, self._bus, self.denied, self._reactor)
        bucket = self._bucket(transfers.download_limit)
        incoming, servers, database = self.direct_transfers.incoming, self.servers, self.database
        receiver, sender, streams = self.receiver, self.sender, self.streams
        endpoints: list[partial[Any]] = [
            partial(InterfaceEndpoint, config),
            partial(SystemEndpoint, config, self._engine, self._reactor),
            *api_servers.endpoints(
                config, servers, receiver, sender, sockets, self.denied, database
            ),
            *api_installations.endpoints(config, servers, self.installations),
            *api_transfers.endpoints(config, servers, receiver, sender, streams, incoming, bucket),
            partial(DirectTransferEndpoint, config, incoming, database),
        ]
        return NodeSite(
            ApiRoot(endpoints),
            reactor=self._reactor,
            timeout=transfers.stall_timeout,
            least_rate=transfers.least_rate,
            limits=config.api.limits,
            observer=self.observer,
            style=AnswerStyle(config),
        )

    def _make_control(self) -> ControlListener:
        config, database, direct = self._config, self.database, self.direct_transfers
        transfers = TransferList(database, self.receiver, self.sender, direct, time.time())
        endpoints: list[partial[Any]] = [
            self._make_status_endpoint(),
            partial(ControlTransfersEndpoint, config, transfers),
            partial(TransferEndpoint, config, transfers, self.servers),
            partial(ReceiveEndpoint, config, direct, database, self.pools.disk, self._address),
            partial(SendEndpoint, config, direct, database),
        ]
        return ControlListener(config.control, ControlApi(endpoints), self._reactor)

    def _make_status_endpoint(self) -> partial[StatusEndpoint]:
        start = self._reactor.seconds()
        staging = self.staging.path
        probes = Probes(
            self._config, self.panel, self._engine, self.pools.disk, staging, self._reactor
        )
        incoming = self.direct_transfers.incoming
        activity = Activity(self.servers, self.receiver, self.sender, incoming, self.callbacks)

        def uptime() -> float:
            return self._reactor.seconds() - start

        return partial(StatusEndpoint, self._config, self._address, uptime, probes, activity)

    def _address(self) -> str:
        return self._http.address

    def _make_exposition(self) -> Exposition | None:
        if self._prometheus is None:
            return None
        from wingsd.metrics.exposition import Exposition, Sources  # noqa: PLC0415 (as above)

        sources = Sources(self.receiver, self.sender, self.callbacks)
        disk, data = self.pools.disk, self._config.system.data
        return Exposition(self._prometheus, sources, disk, data, self._reactor)

    def _bucket(self, limit: int) -> TokenBucket | None:
        return TokenBucket(self._reactor, limit * MIB) if limit > 0 else None

    def _ask_engine(self) -> AskEngine | None:
        if not self._config.docker.enabled:
            return None
        from wingsd.docker import engine  # noqa: PLC0415 (see _make_environment)

        address = engine_address(self._config.docker.socket, os.environ)
        return lambda: self.pools.engine.run(engine.information, address, self.observer)
