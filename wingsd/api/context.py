"""The context of the endpoints: the objects of the node that requests use, and its daemon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from wingsd.activity import ActivityLog
from wingsd.auth.tokens import DenyList
from wingsd.backups.at_rest import BackupChecks, BackupRewrites
from wingsd.backups.creation import Backups
from wingsd.backups.points import PointBackups
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.store import BackupStore
from wingsd.callbacks import CallbackQueue, ContainerStatuses
from wingsd.config import Config, LiveConfig
from wingsd.config_file.updates import PanelUpdates
from wingsd.direct_transfers.initiator import DirectTransfers
from wingsd.direct_transfers.pairs import Pairs
from wingsd.direct_transfers.wanted_seeds import WantedSeeds
from wingsd.docker.runtime import DockerInformation
from wingsd.files.pulls import Pulls
from wingsd.files.tasks import FileTasks, FileWork, Lane
from wingsd.histories import HistoriesOnDemand
from wingsd.node.diagnostics import Diagnostics, OwnLog
from wingsd.node.evacuation import Evacuation
from wingsd.node.figures import NodeFigures
from wingsd.panel.client import Panel
from wingsd.restores import RewindsOnDemand
from wingsd.restores.content import RestoreLinks
from wingsd.restores.manager import Restores
from wingsd.servers.installations import Installations
from wingsd.servers.quotas import ProjectQuotas
from wingsd.servers.registry import Servers
from wingsd.servers.running import RunningServers
from wingsd.sftp.service import SftpService
from wingsd.statedb import StateDatabase, Store
from wingsd.threadio import TokenBucket, Workers
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.arriving_histories import ArrivingHistories
from wingsd.transfers.incoming.following import ArrivingBackups
from wingsd.transfers.incoming.uploads import StreamGroups
from wingsd.transfers.manager import (
    ArrivedServers,
    IncomingMoves,
    IncomingTransfers,
    OutgoingTransfers,
)
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.staging import PartialCopies, Staging
from wingsd.util.reactor import Reactor
from wingsd.websocket.resource import ConsoleSockets

if TYPE_CHECKING:
    from wingsd.node.engine import NodeEngine, OrphanedContainers


class NodeContext:
    """The objects of a node that outlive a request.

    `store` is the state database for the reactor's thread at the start, `database` its
    asynchronous interface. `statuses` reports the states of servers; it is None where no Panel
    takes them.

    `ask_engine` asks the engine for its version; it is None on a node without an engine, and so
    are `engine` and `orphans`.

    `disk` and `long` are the threads for short and long work on disks, `workers` those that no
    disk blocks. `archives` are for archives that are sent while they are made. `bucket` limits the
    rate of all uploads together, None for no limit. `now` returns the seconds since the epoch,
    `address` the URL of the listening socket.
    """

    live: LiveConfig
    reactor: Reactor
    now: Callable[[], float]
    address: Callable[[], str]
    disk: Workers
    long: Workers
    workers: Workers
    store: Store
    database: StateDatabase
    denied: DenyList
    panel: Panel
    callbacks: CallbackQueue
    activity: ActivityLog
    statuses: ContainerStatuses | None
    updates: PanelUpdates

    servers: Servers
    running: RunningServers
    installations: Installations
    sockets: ConsoleSockets
    sftp: SftpService

    files: FileWork
    file_tasks: FileTasks
    pulls: Pulls
    archives: Lane

    backup_store: BackupStore
    backups: Backups
    point_backups: PointBackups
    backup_checks: BackupChecks
    backup_rewrites: BackupRewrites
    histories: HistoriesOnDemand
    left_backups: LeftBackups
    arriving_backups: ArrivingBackups
    arriving_histories: ArrivingHistories
    restores: Restores
    rewinds: RewindsOnDemand
    restore_links: RestoreLinks

    receiver: IncomingTransfers
    sender: OutgoingTransfers
    streams: StreamGroups
    moves: IncomingMoves
    direct_transfers: DirectTransfers
    pairs: Pairs
    wanted_seeds: WantedSeeds
    arrived: ArrivedServers
    coordinators: PanelCoordinators
    bucket: TokenBucket | None
    quotas: ProjectQuotas
    staging: Staging
    quarantine: Quarantine
    received_backups: ReceivedBackups
    partial_copies: PartialCopies

    evacuation: Evacuation
    figures: NodeFigures
    diagnostics: Diagnostics
    own_log: OwnLog
    ask_engine: Callable[[], Deferred[DockerInformation]] | None
    engine: NodeEngine | None
    orphans: OrphanedContainers | None

    def __init__(self, live: LiveConfig, reactor: Reactor) -> None:
        """Make a context that gets all other objects as they are made."""
        self.live, self.reactor = live, reactor
        self.now = time.time
        #: When the daemon started: in seconds since the epoch, and by the reactor's clock.
        self.started, self.begun = time.time(), reactor.seconds()

    @property
    def config(self) -> Config:
        """The configuration in force, which a reload changes in part."""
        return self.live.current
