"""The composition of a node: each of its objects, made with the collaborators that it needs.

`NodeObjects` is read from top to bottom. Nothing runs yet. The methods below its constructor make
what imports more than a node at rest should hold: such an object is made when it is first used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore

from wingsd import __version__
from wingsd.activity import ActivityLog, ActivitySender, CrashActivity
from wingsd.api.context import NodeContext
from wingsd.api.routes import root
from wingsd.app.daemon import (
    Listeners,
    MetricsListener,
    Node,
    NodeServers,
    NodeStorage,
    NodeTransfers,
)
from wingsd.app.process import PACKERS, RESTORERS, Pools
from wingsd.app.reload import Reload
from wingsd.app.reports import PanelReports
from wingsd.archive import ArchiveFormat, Compression
from wingsd.archive.quota import ArchiveLimits
from wingsd.auth.tokens import DenyList
from wingsd.backups.checks import BackupChecks, CheckSchedule
from wingsd.backups.creation import Adapter, BackupParts, Backups, LocalAdapter, checksum_type_of
from wingsd.backups.deletion import BackupDeletion, DroppedBackups
from wingsd.backups.for_wings import BackupRewrites
from wingsd.backups.local import Removal
from wingsd.backups.making import ArchiveTerms
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.s3.adapter import S3Adapter
from wingsd.backups.store import BackupStore
from wingsd.callbacks import CallbackQueue
from wingsd.callbacks.container_status import ContainerStatuses
from wingsd.config import CALAGOPUS, PELICAN, Config
from wingsd.config.live import LiveConfig
from wingsd.config.vendors import user_agent_of
from wingsd.config_file.updates import PanelUpdates
from wingsd.control import ControlListener
from wingsd.direct_transfers.incoming import IncomingDirectTransfers
from wingsd.direct_transfers.outgoing import DirectTransfers
from wingsd.direct_transfers.servers import DirectServers
from wingsd.docker.runtime import ContainerRuntime, EngineInformation, engine_address
from wingsd.events import EventBus
from wingsd.files.pulls import PullOptions, Pulls
from wingsd.files.tasks import FileTasks, FileWork, Lane
from wingsd.http.listener import HttpListener
from wingsd.http.site import AnswerStyle, NodeSite
from wingsd.http_client.download import FetchLimits, GuardedClient
from wingsd.http_client.policy import AddressPolicy, host_resolver
from wingsd.moves.unchanged.file_systems import MeasuredFileSystems
from wingsd.node.answers import SharedAnswer
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.figures import NodeFigures
from wingsd.panel.client import Panel
from wingsd.restores.content import RestoreParts
from wingsd.restores.links import RestoreLinks
from wingsd.restores.manager import Restores
from wingsd.restores.storage import RestoreStorage
from wingsd.servers import Servers
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.installation import InstallParts
from wingsd.servers.installations import Installations
from wingsd.servers.quotas import ProjectQuotas
from wingsd.servers.running import RunningServers
from wingsd.servers.states_file import StatesFile
from wingsd.sftp.listener import SftpListener
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.service import SftpService
from wingsd.sftp.sessions import SftpSessions
from wingsd.statedb import MoveRecord, StateDatabase, TransferRecord
from wingsd.statedb.store import Store
from wingsd.threadio import TokenBucket
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.incoming.transfer import Extraction, IncomingParts
from wingsd.transfers.manager import (
    ArrivedServers,
    IncomingMoves,
    IncomingTransfers,
    OutgoingTransfers,
)
from wingsd.transfers.outgoing.mover import LiveMoves, Mover
from wingsd.transfers.outgoing.source import SourceServers, SourceStorage
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.outgoing.transfer import OutgoingParts
from wingsd.transfers.peer.client import Peers, peer_tls
from wingsd.transfers.recovery import PanelInitiator, Recovery
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage, InstallLogs
from wingsd.transfers.storage.partial_copies import PartialCopies
from wingsd.transfers.storage.quarantine import KeptDays, Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import Staging
from wingsd.util.observer import MovedBytes
from wingsd.util.reactor import Reactor
from wingsd.websocket import ConsoleSockets

if TYPE_CHECKING:
    from wingsd.metrics.exposition import Exposition
    from wingsd.metrics.recorder import Recorder
    from wingsd.node.engine import NodeEngine, OrphanedContainers

__all__ = ["NodeContainers", "NodeObjects"]

MIB = 1024 * 1024
#: Seconds for which the engine's version and its numbers of containers are kept.
INFORMATION_KEPT = 1.0


@attrs.frozen(eq=False, repr=False)
class NodeContainers:
    """The containers of servers and of installers, and their engine, None without one."""

    containers: ContainerRuntime
    ask_engine: Callable[[], Awaitable[EngineInformation]] | None = None
    engine: NodeEngine | None = None


class NodeObjects:
    """The objects of a node, each made once; `node` is the whole.

    `path` is the file of the configuration, empty without one. Tests give objects of their own in
    place of threads, containers and the like. Raises `ConfigError` when the configuration names
    invalid files.
    """

    def __init__(  # noqa: PLR0913, PLR0915 - one page, with what tests give
        self,
        config: Config,
        endpoint: str,
        reactor: Reactor,
        path: str = "",
        *,
        pools: Pools | None = None,
        observer: MovedBytes | None = None,
        panel: Panel | None = None,
        containers: NodeContainers | None = None,
        servers: Servers | None = None,
    ) -> None:
        system, transfers = config.system, config.system.transfers
        self.config, self.reactor = config, reactor
        self.live = live = LiveConfig(config, path)
        self.owner = (system.user.uid, system.user.gid)

        # What all parts use: threads, directories, the state database, and the Panel.
        self.pools = pools = pools or Pools(reactor, transfers)
        self.quotas = ProjectQuotas(system.data, enabled=system.quotas.enabled)
        self.staging = Staging(
            system.data,
            self.owner,
            durable=transfers.durable,
            # On a shared volume the directories of each node have its name.
            node=config.uuid if transfers.storage_pool.name else "",
            prepare_directory=self.quotas.prepare,
        )
        self.backups = ReceivedBackups.configured(system, config.uuid)
        self.bus = EventBus()
        self.recorder = self._make_recorder()
        self.observer = observer or self.recorder or MovedBytes()
        self.resolve = host_resolver(pools.lookups)
        self.panel = panel or self._make_panel()
        self.store = Store(system.root_directory)
        self.database = StateDatabase(self.store, pools.database, time.time)
        self.callbacks = CallbackQueue(self.panel, self.database, reactor)
        self.reports = self._make_reports()
        self.denied = DenyList(time.time())

        # Servers
        self.containers = containers or self._make_containers()
        self.installations = self._make_installations()
        directories = ServerDirectories.configured(config, self.owner, self.quotas)
        self.servers = servers or Servers(
            config,
            self.panel,
            self.containers.containers,
            self.bus,
            self.installations,
            storage=ServerStorage(directories, pools.disk, pools.long),
            rewriters=pools.rewriters,
            reactor=reactor,
        )
        states = StatesFile(system.root_directory, pools.database)
        self.running = RunningServers(states, self.database, self.bus, reactor)

        # Transfers
        self.volume = Volume(
            system.data, self.owner, transfers.storage_pool.name, system.backup_directory
        )
        self.install_logs = InstallLogs.configured(system, self.staging)
        self.partial_copies = PartialCopies(self.staging, transfers.moves.keep_bytes)
        self.quarantine = Quarantine(
            self.staging,
            self.backups,
            self.partial_copies,
            pools.long,
            self.database,
            KeptDays(
                transfers.quarantine_days,
                system.backups.quarantine_days,
                transfers.moves.keep_days,
                transfers.live.keep_source_days,
            ),
        )
        self.step_logs = StepLogs(self.database, self.bus, self.observer, reactor)
        self.coordinators = PanelCoordinators(
            self.panel, self.callbacks, reactor, config.family, transfers.answer_grace
        )
        self.peers = Peers(reactor, peer_tls(transfers.ca_file))
        self.arrived = ArrivedServers(self.database, self.running, self.servers)
        incoming = IncomingParts(
            step_logs=self.step_logs,
            storage=IncomingStorage(
                staging=self.staging,
                backups=self.backups,
                logs=self.install_logs,
                volume=self.volume,
                quarantine=self.quarantine,
                copies=self.partial_copies,
                disk=pools.disk,
                long=pools.long,
                reactor=reactor,
            ),
            extraction=Extraction(
                workers=pools.extractors,
                rereaders=pools.rereaders,
                slots=SharedSlots(transfers.concurrent),
                owner=self.owner,
                limits=attrs.evolve(
                    ArchiveLimits.configured(transfers),
                    make_room=self.partial_copies.remove_oldest,
                ),
                form=transfers.form,
                reactor=reactor,
            ),
            environment=self.containers.containers,
            servers=self.servers,
            reactor=reactor,
        )
        self.receiver = IncomingTransfers(self.coordinators, incoming, transfers, self.arrived)
        self.streams = StreamGroups(self.receiver, self.database, transfers.streams, reactor)
        self.incoming_moves = IncomingMoves(
            self.receiver, self.database, transfers.moves, starts=transfers.live.start
        )
        self.source_storage = SourceStorage(
            directory=self.servers.directory,
            scratch=lambda: self.staging.path,
            backup_directory=system.backup_directory,
            logs=self.install_logs,
            volume=self.volume,
            disk=pools.disk,
            long=pools.long,
            followers=pools.followers,
            clock=reactor,
            compression=Compression(system.backups.compression_level),
            deletes_dropped=config.deletes_dropped_backups,
        )
        self.source_servers = SourceServers(
            servers=self.servers,
            environment=self.containers.containers,
            quarantine=self.quarantine,
            backups=Removal(system.backup_directory, pools.long),
            database=self.database,
            activity=self.reports.sender,
        )
        uploader = Uploader(
            reactor=reactor,
            packers=pools.packers,
            followers=pools.followers,
            slots=DeferredSemaphore(PACKERS),
            stall_timeout=transfers.stall_timeout,
            answer_timeout=transfers.answer_timeout,
            max_streams=min(transfers.streams.most, PACKERS - 1),
            bucket=self._bucket(transfers.upload_limit, transfers.live.share),
        )
        file_systems = MeasuredFileSystems(
            is_allowed=transfers.live.trust == "auto", on_distrust=self.observer.distrusted
        )
        mover = Mover(
            config=transfers.moves,
            peers=self.peers,
            uploader=uploader,
            database=self.database,
            storage=self.source_storage,
            lost_after=float(transfers.answer_grace or transfers.stall_timeout),
            live=LiveMoves(transfers.live, file_systems, self.staging.path),
        )
        outgoing = OutgoingParts(
            peers=self.peers,
            step_logs=self.step_logs,
            servers=self.source_servers,
            storage=self.source_storage,
            uploader=uploader,
            stop_grace=transfers.stop_grace,
            mover=mover,
        )
        self.sender = OutgoingTransfers(reactor, self.coordinators, outgoing)
        self.direct_servers = DirectServers(
            self.servers, self.database, self.bus, pools.disk, transfers.storage_pool.name
        )
        incoming_direct = IncomingDirectTransfers(
            self.direct_servers, self.receiver, self.database, config, time.time
        )
        live.follow(incoming_direct.use)
        self.direct_transfers = DirectTransfers(self.direct_servers, incoming_direct, self.sender)

        # Backups, and restoring them
        restore_storage = RestoreStorage(
            self.staging, Path(system.data), self.owner, self.quotas, transfers.durable
        )
        self.restores = Restores(
            self.servers,
            RestoreParts(
                storage=restore_storage,
                workers=pools.restorers,
                slots=DeferredSemaphore(RESTORERS),
                disk=pools.disk,
                long=pools.long,
                limits=ArchiveLimits.configured(transfers),
                database=self.database,
                callbacks=self.callbacks,
                running=self.running,
                reactor=reactor,
                quarantine_days=system.backups.quarantine_days,
                for_calagopus=config.family == CALAGOPUS,
            ),
        )
        self.restore_links = RestoreLinks.configured(
            reactor,
            system.backups.restore_host_allowlist,
            f"wingsd/{__version__}",
            self.resolve,
            trusts_panel=not config.is_pelican,
        )
        self.backup_store = BackupStore(system.backup_directory, config.family)
        backup_parts = BackupParts(
            family=config.family,
            store=self.backup_store,
            terms=self._archive_terms(),
            database=self.database,
            callbacks=self.callbacks,
            bus=self.bus,
            workers=pools.backups,
            disk=pools.disk,
            reactor=reactor,
        )
        self.made_backups = Backups(
            backup_parts, self._make_backup_adapters(), system.backups.concurrent
        )
        self.backup_deletion = BackupDeletion(
            self.backup_store, self.made_backups, pools.long, self.callbacks, self.bus
        )
        self.backup_checks = BackupChecks(
            self.backup_store,
            CheckSchedule(system.backups.check_interval, system.backups.check_limit * MIB),
            pools.backups,
            pools.disk,
            reactor,
            time.time,
        )
        lock = self.backup_checks.lock
        dropped_backups = DroppedBackups(
            self.backup_store,
            self.database,
            self.panel,
            self.servers,
            pools.long,
            lock,
            transfers.live.keep_source_days,
            config.deletes_dropped_backups,
        )
        self.backup_rewrites = BackupRewrites(backup_parts, self.made_backups, self.servers, lock)

        # The node itself
        self.orphans = self._make_orphans()
        self.own_log = OwnLog(pools.disk, reactor)
        self.diagnostics = Diagnostics(
            lambda: live.current, self.containers.engine, self.own_log, self.orphans
        )

        # Files, by SFTP and by HTTP
        self.sftp = SftpListener(config, self._make_sftp_service(), pools.disk, reactor)
        live.follow(self.sftp.use)
        self.file_work = FileWork(
            short=Lane(pools.files, each=2, waiting=1024),
            long=Lane(pools.searches, each=1, waiting=64),
            large=Lane(pools.listings, each=1, waiting=64),
            changes=Lane(pools.changes, each=2, waiting=1024),
            renames=Lane(pools.renames, each=1, waiting=1024),
            archives=Lane(pools.archivers, each=1, waiting=256),
            writes=Lane(pools.files, each=8, waiting=1024),
            reads=pools.reads,
        )
        self.file_tasks = FileTasks(self.file_work, reactor, time.time)
        downloads = config.api.remote_download
        client = GuardedClient(
            reactor,
            AddressPolicy.of(downloads.host_allowlist, config.api.remote_download_blocked_cidrs),
            user_agent_of(config.family),
            self.resolve,
        )
        options = PullOptions(
            config.api.server_remote_download_limit,
            FetchLimits(redirects=downloads.max_redirects),
        )
        self.pulls = Pulls(self.file_work, self.file_tasks, self.bus, options, client, time.time)

        # The interfaces of the Panel and of browsers, of Prometheus, and of `wingsctl`
        sockets = ConsoleSockets(config, self.bus, self.denied, self.reports.activity, reactor)
        live.follow(sockets.use)
        self.context = NodeContext(
            live=live,
            reactor=reactor,
            address=lambda: self.http.address,
            disk=pools.disk,
            long=pools.long,
            workers=pools.figures,
            database=self.database,
            denied=self.denied,
            panel=self.panel,
            callbacks=self.callbacks,
            activity=self.reports.activity,
            updates=PanelUpdates(live, pools.disk, lambda: self.reload(only_new=True)),
            servers=self.servers,
            installations=self.installations,
            sockets=sockets,
            sftp=self.sftp,
            files=self.file_work,
            file_tasks=self.file_tasks,
            pulls=self.pulls,
            archives=Lane(pools.downloads, each=2, waiting=64),
            backup_store=self.backup_store,
            backups=self.made_backups,
            backup_deletion=self.backup_deletion,
            backup_checks=self.backup_checks,
            backup_rewrites=self.backup_rewrites,
            restores=self.restores,
            restore_links=self.restore_links,
            receiver=self.receiver,
            sender=self.sender,
            streams=self.streams,
            moves=self.incoming_moves,
            direct=self.direct_transfers,
            bucket=self._bucket(transfers.download_limit),
            staging=self.staging,
            received_backups=self.backups,
            partial_copies=self.partial_copies,
            figures=NodeFigures(config, pools.figures, pools.filesystems, reactor),
            diagnostics=self.diagnostics,
            own_log=self.own_log,
            ask_engine=self.containers.ask_engine,
            engine=self.containers.engine,
            orphans=self.orphans,
        )
        style = AnswerStyle(config)
        live.follow(style.use)
        site = NodeSite(
            root(self.context),
            reactor=reactor,
            timeout=transfers.stall_timeout,
            least_rate=transfers.least_rate,
            limits=config.api.limits,
            observer=self.observer,
            style=style,
        )
        self.http = HttpListener(config.api.ssl, endpoint, site, reactor)
        self.reload = Reload(live, self.http.reload)
        self.metrics = MetricsListener(config, self._make_exposition(), reactor)
        self.control = ControlListener(config.control, self.context)

        self.node = Node(
            config,
            Listeners(self.http, self.metrics, self.control, self.sftp),
            NodeStorage(
                self.store,
                self.database,
                self.running,
                self.quotas,
                self.staging,
                self.backups,
                self.quarantine,
                self.restores,
                self.denied,
            ),
            NodeServers(
                self.servers,
                self.reports,
                self.pulls,
                self.made_backups,
                self.backup_checks,
                self.backup_rewrites,
                dropped_backups,
                self.orphans,
            ),
            NodeTransfers(
                self.receiver,
                self.arrived,
                self.sender,
                self.streams,
                self.direct_transfers,
                self.callbacks,
                self.make_recovery,
            ),
            pools,
            self.observer,
            reactor,
        )

    def _bucket(self, limit: int, yielded: float = 1.0) -> TokenBucket | None:
        return TokenBucket(self.reactor, limit * MIB, yielded) if limit > 0 else None

    # What all parts use

    def _make_recorder(self) -> Recorder | None:
        if not self.config.metrics.address:
            return None
        # Here, since the Prometheus client takes 1 MiB, which a node without metrics saves.
        from wingsd.metrics.recorder import Recorder  # noqa: PLC0415

        return Recorder()

    def _make_panel(self) -> Panel:
        panel = Panel(self.config, self.reactor, observer=self.observer)
        self.live.follow(panel.use)
        return panel

    def _make_reports(self) -> PanelReports:
        panel, reactor, system = self.panel, self.reactor, self.config.system
        log = ActivityLog(self.database, reactor, system.activity_max_entries)
        CrashActivity(self.config.family, log, self.bus)
        interval, count = system.activity_send_interval, system.activity_send_count
        sender = ActivitySender(log, panel, reactor, interval, count)
        # Of the Panels, only Pelican's has a path for it.
        has_statuses = self.config.family == PELICAN
        statuses = ContainerStatuses(panel, self.bus, reactor) if has_statuses else None
        return PanelReports(log, sender, statuses)

    # Servers

    def _make_containers(self) -> NodeContainers:
        config, pool, reactor = self.config, self.pools.engine, self.reactor
        if not config.docker.enabled:
            return NodeContainers(ContainerRuntime())
        # Here, since docker-py and its libraries take 8 MiB, which a node without Docker saves.
        from wingsd.docker import engine  # noqa: PLC0415
        from wingsd.docker.async_engine import AsyncEngine  # noqa: PLC0415
        from wingsd.docker.containers import DockerContainers  # noqa: PLC0415
        from wingsd.node.engine import NodeEngine  # noqa: PLC0415

        address = engine_address(config.docker.socket, os.environ)

        def ask() -> Deferred[EngineInformation]:
            return pool.run(engine.information, address, self.observer)

        containers = DockerContainers(config, pool, reactor, self.observer)
        self.live.follow(containers.use)
        return NodeContainers(
            containers,
            SharedAnswer(ask, reactor, keep=INFORMATION_KEPT).get,
            NodeEngine(AsyncEngine(pool, address, self.observer), reactor),
        )

    def _make_installations(self) -> Installations:
        config = self.config
        parts = InstallParts(
            config,
            self.panel,
            self.containers.containers,
            self.database,
            self.pools.disk,
            self.reactor,
        )
        return Installations(parts, self.callbacks)

    # Transfers

    def make_recovery(
        self, unfinished: list[TransferRecord], moves: Sequence[MoveRecord] = ()
    ) -> Recovery:
        """Return what resumes the unfinished transfers of an earlier daemon."""
        return Recovery(
            unfinished,
            moves,
            panel=PanelInitiator(self.coordinators, self.receiver, self.sender),
            direct=self.direct_transfers,
            receiver=self.receiver,
            incoming_moves=self.incoming_moves,
            sender=self.sender,
            starter=self.running,
        )

    # Backups

    def _make_backup_adapters(self) -> dict[str, Adapter]:
        """Return what makes and restores backups, by the name that a Panel uses."""
        s3 = S3Adapter(
            self.panel,
            self.backup_store,
            self.pools.uploads,
            self.reactor,
            self.config.system.backups.s3,
            self.config.family,
        )
        return {"wings": LocalAdapter(self.backup_store, self.pools.disk), "s3": s3}

    def _archive_terms(self) -> ArchiveTerms:
        system, family = self.config.system, self.config.family
        form = ArchiveFormat.TAR_GZ
        if family == CALAGOPUS:
            wanted = system.backups.wings.archive_format
            form = next((each for each in ArchiveFormat if each.value == wanted), form)
        return ArchiveTerms(
            form=form,
            compression=Compression(system.backups.compression_level),
            checksum_type=checksum_type_of(family),
            write_limit=system.backups.write_limit * MIB,
            reserve=ArchiveLimits.configured(system.transfers).reserve,
        )

    # The node itself

    def _make_orphans(self) -> OrphanedContainers | None:
        engine = self.containers.engine
        if engine is None:
            return None
        from wingsd.node.engine import OrphanedContainers  # noqa: PLC0415 (see _make_containers)

        return OrphanedContainers(
            engine, self.config, self.servers, self.database, self.panel, self.reactor
        )

    # Files

    def _make_sftp_service(self) -> SftpService:
        config, reactor, denied = self.config, self.reactor, self.denied
        logins = SftpLogins(config, self.panel, self.servers, denied, reactor.seconds, time.time)
        sessions = SftpSessions(
            config, self.servers, logins, denied, self.reports.activity, self.bus, reactor
        )
        return SftpService(config, logins, sessions, self.pools.disk, reactor)

    def _make_exposition(self) -> Exposition | None:
        if self.recorder is None:
            return None
        from wingsd.metrics.exposition import Exposition, Sources  # noqa: PLC0415 (as above)

        activity, checks = self.reports.activity, self.backup_checks
        sources = Sources(self.receiver, self.sender, self.callbacks, activity, checks, self.sftp)
        # What is counted waits while a kept copy is removed.
        disk, data = self.pools.long, self.config.system.data

        kept = self.partial_copies.kept_bytes
        return Exposition(self.recorder, sources, disk, data, kept, self.reactor)
