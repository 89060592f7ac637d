"""The composition of a node: each of its objects, made with the collaborators that it needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore

from wingsd import __version__
from wingsd.activity import ActivityLog, record_crashes
from wingsd.api.context import NodeContext
from wingsd.api.routes import root
from wingsd.app.daemon import MetricsListener, Node
from wingsd.app.process import PACKERS, RESTORERS, Pools
from wingsd.app.reload import Reload
from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.quota import ArchiveLimits
from wingsd.auth.tokens import DenyList
from wingsd.backups.at_rest import BackupChecks, BackupRewrites
from wingsd.backups.creation import ArchiveTerms, Backups, checksum_type_of
from wingsd.backups.points import PointBackups
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.s3 import S3Adapter
from wingsd.backups.store import BackupStore, Removal
from wingsd.callbacks import CallbackQueue, ContainerStatuses
from wingsd.config import CALAGOPUS, PELICAN, Config, LiveConfig, user_agent_of
from wingsd.config_file.updates import PanelUpdates
from wingsd.control import ControlListener
from wingsd.direct_transfers.initiator import DirectTransfers
from wingsd.direct_transfers.pairs import Pairs
from wingsd.direct_transfers.wanted_seeds import WantedSeeds
from wingsd.docker.runtime import ContainerRuntime, DockerInformation, engine_address
from wingsd.events import EventBus
from wingsd.files.pulls import Pulls
from wingsd.files.tasks import FileTasks, FileWork, Lane
from wingsd.histories import HistoriesOnDemand
from wingsd.http.listener import HttpListener
from wingsd.http.site import NodeSite
from wingsd.http_client.download import (
    AddressPolicy,
    FetchLimits,
    GuardedClient,
    host_resolver,
)
from wingsd.moves.unchanged import MeasuredFileSystems
from wingsd.node.answers import SharedAnswer
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.evacuation import Evacuation
from wingsd.node.figures import NodeFigures
from wingsd.panel.client import Panel
from wingsd.restores import RewindsOnDemand
from wingsd.restores.content import RestoreLinks
from wingsd.restores.manager import Restores
from wingsd.restores.storage import RestoreStorage
from wingsd.servers import Servers
from wingsd.servers.files import ServerDirectories, ServerStorage
from wingsd.servers.installations import Installations, InstallParts
from wingsd.servers.quotas import ProjectQuotas
from wingsd.servers.running import RunningServers, StatesFile
from wingsd.servers.server import ServerParts
from wingsd.sftp.logins import SftpLogins
from wingsd.sftp.past import PastRequests
from wingsd.sftp.service import SftpService
from wingsd.sftp.sessions import SftpSessions
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import TokenBucket
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.arriving_histories import ArrivingHistories
from wingsd.transfers.incoming.following import ArrivingBackups, ArrivingPieces
from wingsd.transfers.incoming.transfer import IncomingParts
from wingsd.transfers.incoming.uploads import StreamGroups
from wingsd.transfers.manager import (
    ArrivedServers,
    IncomingMoves,
    IncomingTransfers,
    OutgoingTransfers,
)
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.outgoing.left_histories import LeftHistories
from wingsd.transfers.outgoing.source import OutgoingParts
from wingsd.transfers.peer.client import check_ca_file
from wingsd.transfers.steps import StepLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import InstallLogs, PartialCopies, Staging, WriteBack
from wingsd.util.observer import Observer
from wingsd.util.reactor import Reactor
from wingsd.websocket.resource import ConsoleSockets

MIB = 1024 * 1024
#: Seconds for which the engine's version and its numbers of containers are kept.
INFORMATION_KEPT = 1.0


def build_node(  # noqa: PLR0913, PLR0915 - one page, with what tests give
    config: Config,
    endpoint: str,
    reactor: Reactor,
    path: str = "",
    *,
    pools: Pools | None = None,
    observer: Observer | None = None,
    panel: Panel | None = None,
    containers: ContainerRuntime | None = None,
    servers: Servers | None = None,
) -> Node:
    """Return a node, each of whose objects is made once. Nothing of it runs yet.

    `path` is the file of the configuration, empty without one. Tests give objects of their own in
    place of threads, containers and the like. Raises `ConfigError` when the configuration names
    invalid files.
    """
    system, transfers = config.system, config.system.transfers
    live = LiveConfig(config, path)
    context = NodeContext(live, reactor)
    owner = (system.user.uid, system.user.gid)

    # What all parts use: threads, directories, the state database, and the Panel.
    pools = pools or Pools(reactor, transfers)
    context.disk = pools.disk
    context.long = pools.long
    context.workers = pools.figures
    quotas = context.quotas = ProjectQuotas(system.data, enabled=system.quotas.enabled)
    staging = context.staging = Staging(
        system.data,
        owner,
        durable=transfers.durable,
        # On a shared volume the directories of each node have its name.
        node=config.uuid if transfers.storage_pool.name else "",
        prepare_directory=quotas.prepare,
    )
    received_backups = context.received_backups = ReceivedBackups.configured(system, config.uuid)
    bus = EventBus()
    recorder = None
    if config.metrics.address:
        # Here, since the Prometheus client takes 1 MiB, which a node without metrics saves.
        from wingsd.metrics import Exposition, Recorder, Sources  # noqa: PLC0415

        recorder = Recorder()
    observer = observer or recorder or Observer()
    resolve = host_resolver(pools.lookups)
    if panel is None:
        panel = Panel(config, reactor, observer=observer)
        live.follow(panel.use)
    context.panel = panel
    store = context.store = Store(system.root_directory)
    database = context.database = StateDatabase(store, pools.database, time.time)
    callbacks = context.callbacks = CallbackQueue(panel, database, reactor)
    activity = context.activity = ActivityLog(
        database,
        panel,
        reactor,
        system.activity_max_entries,
        system.activity_send_interval,
        system.activity_send_count,
    )
    record_crashes(config.family, activity, bus)
    # Of the Panels, only Pelican's has a path for it.
    is_pelican = config.family == PELICAN
    context.statuses = ContainerStatuses(panel, bus, reactor) if is_pelican else None
    denied = context.denied = DenyList(time.time())

    # Servers
    context.ask_engine = context.engine = None
    containers = containers or _containers(context, pools, observer)
    installations = context.installations = Installations(
        InstallParts(config, panel, containers, database, pools.disk, reactor), callbacks
    )
    directories = ServerDirectories.configured(config, owner, quotas)
    server_parts = ServerParts(
        config,
        panel,
        containers,
        bus,
        ServerStorage(directories, pools.disk, pools.long),
        pools.rewriters,
        reactor,
    )
    servers = context.servers = servers or Servers(server_parts, installations)
    states = StatesFile(system.root_directory, pools.database)
    running = context.running = RunningServers(states, database, bus, reactor)

    # Histories
    file_systems = MeasuredFileSystems(
        is_allowed=transfers.live.trust == "auto", on_distrust=observer.distrusted
    )
    histories = context.histories = HistoriesOnDemand(
        config,
        servers,
        database,
        bus,
        file_systems,
        lambda: staging.path,
        pools.historians,
        pools.past_disk,
        reactor,
        time.time,
    )
    live.follow(histories.use)

    # Backups that are made, or verified
    backup_store = context.backup_store = BackupStore(system.backup_directory, config.family)
    s3 = S3Adapter(
        panel, backup_store, pools.uploads, reactor, system.backups.s3, config.family == CALAGOPUS
    )
    sent = Lane(pools.senders, each=2, waiting=64)
    points = context.point_backups = PointBackups(histories, pools.backups, sent)
    made_backups = context.backups = Backups(
        family=config.family,
        store=backup_store,
        points=points,
        terms=_archive_terms(config),
        database=database,
        callbacks=callbacks,
        bus=bus,
        workers=pools.backups,
        disk=pools.disk,
        long=pools.long,
        reactor=reactor,
        adapters={"wings": None, "s3": s3},
        slots=DeferredSemaphore(system.backups.concurrent),
    )
    check_limit = system.backups.check_limit * MIB
    backup_checks = context.backup_checks = BackupChecks(
        made_backups, system.backups.check_interval, check_limit, time.time
    )

    # Transfers
    volume = Volume(system.data, owner, transfers.storage_pool.name, system.backup_directory)
    limits = ArchiveLimits.configured(transfers)
    install_logs = InstallLogs(system.log_directory, staging, reserve=limits.reserve)
    partial_copies = context.partial_copies = PartialCopies(
        staging, transfers.moves.keep_bytes, limits
    )
    quarantine = context.quarantine = Quarantine(
        staging, received_backups, partial_copies, pools.long, database, system
    )
    step_logs = StepLogs(database, bus, observer, reactor)
    coordinators = context.coordinators = PanelCoordinators(
        panel, callbacks, reactor, config.family, transfers.answer_grace
    )
    arrived = context.arrived = ArrivedServers(database, running, servers)
    check_ca_file(transfers.ca_file)
    upload_bucket = _bucket(reactor, transfers.upload_limit, transfers.live.share)
    left_histories = LeftHistories(database, histories, pools.followers, reactor)
    left_backups = context.left_backups = LeftBackups(
        transfers,
        database,
        backup_store,
        points,
        panel,
        servers,
        volume,
        left_histories,
        backup_checks.lock,
        pools.long,
        pools.followers,
        upload_bucket,
        reactor,
        config.deletes_dropped_backups,
    )
    incoming = IncomingParts(
        step_logs=step_logs,
        staging=staging,
        backups=received_backups,
        logs=install_logs,
        volume=volume,
        quarantine=quarantine,
        copies=partial_copies,
        disk=pools.disk,
        long=pools.long,
        write_back=WriteBack(lambda: pools.long.run(staging.write_back), reactor),
        environment=containers,
        servers=servers,
        reactor=reactor,
        workers=pools.extractors,
        rereaders=pools.rereaders,
        slots=SharedSlots(transfers.concurrent),
        owner=owner,
        limits=attrs.evolve(limits, make_room=partial_copies.remove_oldest),
        config=transfers,
        histories=histories,
        left_backups=left_backups,
    )
    receiver = context.receiver = IncomingTransfers(coordinators, incoming, arrived)
    context.streams = StreamGroups(receiver, database, transfers.streams, reactor)
    context.moves = IncomingMoves(receiver)
    pieces = ArrivingPieces(pools.followers, reactor, transfers.moves.batch * MIB)
    context.arriving_backups = ArrivingBackups(
        database,
        backup_store,
        points,
        panel,
        servers,
        left_backups,
        volume,
        pieces,
        pools.long,
        reactor,
        limits.reserve,
    )
    context.arriving_histories = ArrivingHistories(
        database, histories, servers, left_backups, pieces, limits.reserve
    )
    outgoing = OutgoingParts(
        config=transfers,
        reactor=reactor,
        step_logs=step_logs,
        servers=servers,
        environment=containers,
        quarantine=quarantine,
        backups=Removal(system.backup_directory, pools.long),
        points=points,
        database=database,
        activity=activity,
        scratch=lambda: staging.path,
        logs=install_logs,
        volume=volume,
        compression=Compression(system.backups.compression_level),
        left_backups=left_backups,
        left_histories=left_histories,
        deletes_dropped=config.is_pelican and config.deletes_dropped_backups,
        disk=pools.disk,
        long=pools.long,
        packers=pools.packers,
        followers=pools.followers,
        slots=DeferredSemaphore(PACKERS),
        max_streams=min(transfers.streams.most, PACKERS - 1),
        bucket=upload_bucket,
        file_systems=file_systems,
    )
    sender = context.sender = OutgoingTransfers(coordinators, outgoing)
    direct = context.direct_transfers = DirectTransfers(receiver, sender, bus, config, time.time)
    live.follow(direct.use)
    pairs = context.pairs = Pairs(receiver, sender, direct, system.root_directory, time.time)
    context.wanted_seeds = WantedSeeds(pairs, sender, servers, database)

    # Restoring backups, and points of histories
    is_calagopus = config.family == CALAGOPUS
    restored = RestoreStorage(staging, Path(system.data), owner, quotas, transfers.durable)
    context.restores = Restores(
        servers,
        storage=restored,
        workers=pools.restorers,
        slots=DeferredSemaphore(RESTORERS),
        disk=pools.disk,
        long=pools.long,
        limits=limits,
        database=database,
        callbacks=callbacks,
        running=running,
        reactor=reactor,
        quarantine_days=system.backups.quarantine_days,
        for_calagopus=is_calagopus,
    )
    context.rewinds = RewindsOnDemand(histories, context.restores)
    allowed = AddressPolicy.of(system.backups.restore_host_allowlist)
    context.restore_links = RestoreLinks(
        GuardedClient(reactor, allowed, f"wingsd/{__version__}", resolve),
        reactor,
        trusts_panel=not config.is_pelican,
    )
    context.backup_rewrites = BackupRewrites(made_backups, servers, backup_checks.lock)

    # The node itself
    context.evacuation = Evacuation(time.time)
    context.orphans = None
    if context.engine is not None:
        from wingsd.node.engine import OrphanedContainers  # noqa: PLC0415 (see _containers)

        context.orphans = OrphanedContainers(
            context.engine, config, servers, database, panel, reactor
        )
    own_log = context.own_log = OwnLog(pools.disk, reactor)
    context.diagnostics = Diagnostics(
        lambda: live.current, context.engine, own_log, context.orphans
    )

    # Files, by SFTP and by HTTP
    logins = SftpLogins(config, panel, servers, denied, reactor.seconds, time.time)
    sessions = SftpSessions(config, servers, logins, activity, bus, reactor)
    past = Lane(pools.past, each=1, waiting=256)
    most = config.system.sftp.directory_entry_limit
    requests = PastRequests(sessions, histories, past, most, reactor)
    sftp = context.sftp = SftpService(config, logins, sessions, requests, pools.disk, reactor)
    live.follow(sftp.use)
    file_work = context.files = FileWork(
        short=Lane(pools.files, each=2, waiting=1024),
        long=Lane(pools.searches, each=1, waiting=64),
        large=Lane(pools.listings, each=1, waiting=64),
        past=past,
        changes=Lane(pools.changes, each=2, waiting=1024),
        renames=Lane(pools.renames, each=1, waiting=1024),
        archives=Lane(pools.archivers, each=1, waiting=256),
        writes=Lane(pools.files, each=8, waiting=1024),
        reads=pools.reads,
    )
    file_tasks = context.file_tasks = FileTasks(reactor, time.time)
    downloads = config.api.remote_download
    client = GuardedClient(
        reactor,
        AddressPolicy.of(downloads.host_allowlist, config.api.remote_download_blocked_cidrs),
        user_agent_of(config.family),
        resolve,
    )
    context.pulls = Pulls(
        file_work,
        file_tasks,
        bus,
        client,
        time.time,
        config.api.server_remote_download_limit,
        FetchLimits(redirects=downloads.max_redirects),
    )

    # The interfaces of the Panel and of browsers, of Prometheus, and of `wingsctl`
    sockets = context.sockets = ConsoleSockets(config, bus, denied, activity, reactor)
    live.follow(sockets.use)
    context.address = lambda: http.address
    context.updates = PanelUpdates(live, pools.disk, lambda: reload(only_new=True))
    context.archives = Lane(pools.downloads, each=2, waiting=64)
    context.bucket = _bucket(reactor, transfers.download_limit)
    context.figures = NodeFigures(config, pools.figures, pools.filesystems, reactor)
    site = NodeSite(
        root(context),
        reactor=reactor,
        timeout=transfers.stall_timeout,
        least_rate=transfers.least_rate,
        limits=config.api.limits,
        observer=observer,
        config=config,
    )
    live.follow(site.use)
    http = HttpListener(config.api.ssl, endpoint, site, reactor)
    reload = Reload(live, http.reload)
    exposition = None
    if recorder is not None:
        shown = servers if config.metrics.servers else None
        sources = Sources(
            receiver,
            sender,
            callbacks,
            activity,
            backup_checks,
            left_backups,
            sftp,
            pairs,
            context.evacuation,
            context.wanted_seeds,
            histories,
            shown,
        )
        # What is counted waits while a kept copy is removed.
        exposition = Exposition(
            recorder, sources, pools.long, system.data, partial_copies.kept_bytes, reactor
        )
    return Node(
        context,
        http=http,
        metrics=MetricsListener(config, exposition, reactor),
        control=ControlListener(config.control, context),
        pools=pools,
        moved=observer,
        reload=reload,
    )


def _containers(node: NodeContext, pools: Pools, observer: Observer) -> ContainerRuntime:
    """Return the containers of servers and installers; give `node` their engine, if it has one."""
    config, reactor = node.config, node.reactor
    if not config.docker.enabled:
        return ContainerRuntime()
    # Here, since docker-py and its libraries take 8 MiB, which a node without Docker saves.
    from wingsd.docker import engine  # noqa: PLC0415
    from wingsd.docker.async_engine import AsyncEngine  # noqa: PLC0415
    from wingsd.docker.containers import DockerContainers  # noqa: PLC0415
    from wingsd.node.engine import NodeEngine  # noqa: PLC0415

    pool, address = pools.engine, engine_address(config.docker.socket, os.environ)

    def ask() -> Deferred[DockerInformation]:
        return pool.run(engine.information, address, observer)

    containers = DockerContainers(config, pool, reactor, observer, pools.figures)
    node.live.follow(containers.use)
    node.ask_engine = SharedAnswer(ask, reactor, keep=INFORMATION_KEPT).get
    node.engine = NodeEngine(AsyncEngine(pool, address, observer), reactor)
    return containers


def _bucket(reactor: Reactor, limit: int, yielded: float = 1.0) -> TokenBucket | None:
    return TokenBucket(reactor, limit * MIB, yielded) if limit > 0 else None


def _archive_terms(config: Config) -> ArchiveTerms:
    system, family = config.system, config.family
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
