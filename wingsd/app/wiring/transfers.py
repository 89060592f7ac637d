"""The transfers to and from a node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twisted.internet.defer import DeferredSemaphore

from wingsd.app.process import PACKERS
from wingsd.app.wiring.servers import ServersWiring
from wingsd.archive import ArchiveLimits, Compression
from wingsd.backups.local import Removal
from wingsd.config import Config
from wingsd.direct_transfers import (
    DirectServers,
    DirectTransfers,
    IncomingDirectTransfers,
    OutgoingDirectTransfers,
)
from wingsd.statedb import TransferRecord
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.incoming.uploads import Extraction
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.outgoing.source import SourceServers, SourceStorage
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.peer.tls import peer_tls
from wingsd.transfers.recovery import PanelOutcomes, Recovery
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.incoming import IncomingStorage
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.transfers.outgoing.factory import OutgoingTransferFactory
    from wingsd.transfers.outgoing.upload import Uploader

__all__ = ["TransfersWiring"]


class TransfersWiring(ServersWiring):
    """The objects of a node's transfers."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        system, transfers = config.system, config.system.transfers
        pool, disk, days = transfers.storage_pool.name, self.pools.disk, transfers.quarantine_days
        self._volume = Volume(system.data, self.owner, pool, system.backup_directory)
        self._logs = InstallLogs.configured(system, self.staging)
        self.quarantine = Quarantine(
            self.staging,
            self.backups,
            disk,
            self.database,
            days,
            system.backups.quarantine_days,
        )
        self._step_logs = StepLogs(self.database, self._bus, self.observer, self._reactor)
        self._coordinators = PanelCoordinators(
            self.panel, self.callbacks, reactor, config.family, transfers.answer_grace
        )
        self._peers = Peers(reactor, peer_tls(transfers.ca_file))
        self.receiver = self._make_receiver()
        self.streams = StreamGroups(self.receiver, self.database, transfers.streams, reactor)
        self._source_storage = self._make_source_storage()
        self._source_servers = self._make_source_servers()
        self._outgoing = Later(self._make_outgoing_factory)
        self.sender = self._make_sender()
        self.direct_transfers = self._make_direct_transfers()

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
        return OutgoingTransfers(self._reactor, self._coordinators, self._outgoing)

    def _make_outgoing_factory(self) -> OutgoingTransferFactory:
        # Here, since a node that sends no servers saves what these import.
        from wingsd.transfers.outgoing.factory import OutgoingTransferFactory  # noqa: PLC0415

        return OutgoingTransferFactory(
            peers=self._peers,
            step_logs=self._step_logs,
            servers=self._source_servers,
            storage=self._source_storage,
            uploader=self._make_uploader(),
            stop_grace=self._config.system.transfers.stop_grace,
        )

    def _make_uploader(self) -> Uploader:
        from wingsd.transfers.outgoing.upload import Uploader  # noqa: PLC0415 (as above)

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
        incoming = IncomingDirectTransfers(servers, self.receiver, database, config, time.time)
        self.live.follow(incoming.use)
        return DirectTransfers(
            servers,
            incoming,
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
