"""The transfers to and from a node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import DeferredSemaphore

from wingsd.app.process import PACKERS
from wingsd.app.wiring.servers import ServersWiring
from wingsd.archive import Compression
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.local import Removal
from wingsd.config import Config
from wingsd.direct_transfers import DirectServers, DirectTransfers
from wingsd.statedb import MoveRecord, TransferRecord
from wingsd.transfers.coordinator import PanelCoordinators
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.starts import ArrivedServers
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.transfers.outgoing.source import SourceServers, SourceStorage
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.peer.tls import peer_tls
from wingsd.transfers.recovery import PanelOutcomes, Recovery, UnfinishedMoves
from wingsd.transfers.step_log import StepLogs
from wingsd.transfers.storage.install_log import InstallLogs
from wingsd.transfers.storage.quarantine import KeptDays, Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.direct_transfers.incoming import IncomingDirectTransfers
    from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers
    from wingsd.transfers.incoming.factory import IncomingTransferFactory
    from wingsd.transfers.incoming.moves.manager import IncomingMoves
    from wingsd.transfers.incoming.multistream import StreamGroups
    from wingsd.transfers.incoming.uploads import Extraction
    from wingsd.transfers.outgoing.factory import OutgoingTransferFactory
    from wingsd.transfers.outgoing.mover import Mover
    from wingsd.transfers.outgoing.streams import Uploader
    from wingsd.transfers.storage.incoming import IncomingStorage
    from wingsd.transfers.storage.partial_copies import PartialCopies

__all__ = ["TransfersWiring"]


class TransfersWiring(ServersWiring):
    """The objects of a node's transfers."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        system, transfers = config.system, config.system.transfers
        pool = transfers.storage_pool.name
        self._volume = Volume(system.data, self.owner, pool, system.backup_directory)
        self._logs = InstallLogs.configured(system, self.staging)
        self.partial_copies = Later(self._make_partial_copies)
        self.quarantine = Quarantine(
            self.staging,
            self.backups,
            self.partial_copies.get,
            self.pools.long,
            self.database,
            KeptDays(
                transfers.quarantine_days,
                system.backups.quarantine_days,
                transfers.moves.keep_days,
                transfers.live.keep_source_days,
            ),
        )
        self._step_logs = StepLogs(self.database, self._bus, self.observer, self._reactor)
        self._coordinators = PanelCoordinators(
            self.panel, self.callbacks, reactor, config.family, transfers.answer_grace
        )
        self._peers = Peers(reactor, peer_tls(transfers.ca_file))
        self._incoming = Later(self._make_incoming_factory)
        self.arrived = ArrivedServers(self.database, self.running, self.servers)
        self.receiver = IncomingTransfers(
            self._coordinators, self._incoming, transfers, self.arrived
        )
        self.streams = Later(self._make_streams)
        self.incoming_moves = Later(self._make_incoming_moves)
        self._source_storage = self._make_source_storage()
        self._source_servers = self._make_source_servers()
        self._outgoing = Later(self._make_outgoing_factory)
        self.sender = OutgoingTransfers(reactor, self._coordinators, self._outgoing)
        self.direct_transfers = self._make_direct_transfers()

    def _make_incoming_factory(self) -> IncomingTransferFactory:
        # Here, like those below, since a node that receives no servers saves what these import.
        from wingsd.transfers.incoming.factory import IncomingTransferFactory  # noqa: PLC0415

        return IncomingTransferFactory(
            step_logs=self._step_logs,
            storage=self._make_incoming_storage(),
            extraction=self._make_extraction(),
            environment=self._environment,
            servers=self.servers,
            reactor=self._reactor,
        )

    def _make_incoming_storage(self) -> IncomingStorage:
        from wingsd.transfers.storage.incoming import IncomingStorage  # noqa: PLC0415

        return IncomingStorage(
            staging=self.staging,
            backups=self.backups,
            logs=self._logs,
            volume=self._volume,
            quarantine=self.quarantine,
            copies=self.partial_copies.get(),
            disk=self.pools.disk,
            long=self.pools.long,
            reactor=self._reactor,
        )

    def _make_partial_copies(self) -> PartialCopies:
        from wingsd.transfers.storage.partial_copies import PartialCopies  # noqa: PLC0415

        return PartialCopies(self.staging, self._config.system.transfers.moves.keep_bytes)

    def _make_extraction(self) -> Extraction:
        from wingsd.transfers.cancellation import SharedSlots  # noqa: PLC0415
        from wingsd.transfers.incoming.uploads import Extraction  # noqa: PLC0415

        transfers = self._config.system.transfers
        return Extraction(
            workers=self.pools.extractors,
            rereaders=self.pools.rereaders,
            slots=SharedSlots(transfers.concurrent),
            owner=self.owner,
            limits=attrs.evolve(
                ArchiveLimits.configured(transfers),
                make_room=lambda: self.partial_copies.get().remove_oldest(),
            ),
            form=transfers.form,
            reactor=self._reactor,
        )

    def _make_streams(self) -> StreamGroups:
        from wingsd.transfers.incoming.multistream import StreamGroups  # noqa: PLC0415

        limits = self._config.system.transfers.streams
        return StreamGroups(self.receiver, self.database, limits, self._reactor)

    def _make_source_storage(self) -> SourceStorage:
        system = self._config.system
        return SourceStorage(
            directory=self.servers.directory,
            scratch=lambda: self.staging.path,
            backup_directory=system.backup_directory,
            logs=self._logs,
            volume=self._volume,
            disk=self.pools.disk,
            long=self.pools.long,
            compression=Compression(system.backups.compression_level),
        )

    def _make_source_servers(self) -> SourceServers:
        return SourceServers(
            servers=self.servers,
            environment=self._environment,
            quarantine=self.quarantine,
            backups=Removal(self._config.system.backup_directory, self.pools.long),
            database=self.database,
            activity=self.reports.sender,
        )

    def _make_outgoing_factory(self) -> OutgoingTransferFactory:
        from wingsd.transfers.outgoing.factory import OutgoingTransferFactory  # noqa: PLC0415

        uploader = self._make_uploader()
        return OutgoingTransferFactory(
            peers=self._peers,
            step_logs=self._step_logs,
            servers=self._source_servers,
            storage=self._source_storage,
            uploader=uploader,
            stop_grace=self._config.system.transfers.stop_grace,
            mover=self._make_mover(uploader),
        )

    def _make_mover(self, uploader: Uploader) -> Mover:
        # as above
        from wingsd.moves.unchanged.file_systems import MeasuredFileSystems  # noqa: PLC0415
        from wingsd.transfers.outgoing.mover import LiveMoves, Mover  # noqa: PLC0415

        transfers = self._config.system.transfers
        file_systems = MeasuredFileSystems(
            is_allowed=transfers.live.trust == "auto", on_distrust=self.observer.distrusted
        )
        return Mover(
            config=transfers.moves,
            peers=self._peers,
            uploader=uploader,
            database=self.database,
            storage=self._source_storage,
            observer=self.observer,
            lost_after=float(transfers.answer_grace or transfers.stall_timeout),
            live=LiveMoves(transfers.live, file_systems, self.staging.path),
        )

    def _make_uploader(self) -> Uploader:
        from wingsd.transfers.outgoing.streams import Uploader  # noqa: PLC0415

        transfers = self._config.system.transfers
        return Uploader(
            reactor=self._reactor,
            packers=self.pools.packers,
            followers=self.pools.followers,
            slots=DeferredSemaphore(PACKERS),
            stall_timeout=transfers.stall_timeout,
            answer_timeout=transfers.answer_timeout,
            max_streams=min(transfers.streams.most, PACKERS - 1),
            bucket=self._bucket(transfers.upload_limit, transfers.live.share),
        )

    def _make_direct_transfers(self) -> DirectTransfers:
        pool = self._config.system.transfers.storage_pool.name
        self._direct_servers = DirectServers(
            self.servers, self.database, self._bus, self.pools.disk, pool
        )
        self._incoming_direct = incoming = Later(self._make_incoming_direct)

        def use(config: Config) -> None:
            if incoming.made is not None:
                incoming.made.use(config)

        self.live.follow(use)
        return DirectTransfers(self._direct_servers, incoming, Later(self._make_outgoing_direct))

    def _make_incoming_direct(self) -> IncomingDirectTransfers:
        from wingsd.direct_transfers.incoming import IncomingDirectTransfers  # noqa: PLC0415

        config = self.live.current
        return IncomingDirectTransfers(
            self._direct_servers, self.receiver, self.database, config, time.time
        )

    def _make_outgoing_direct(self) -> OutgoingDirectTransfers:
        from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers  # noqa: PLC0415

        return OutgoingDirectTransfers(
            self._direct_servers,
            self.servers,
            self.sender,
            self.database,
            self._peers,
            self._reactor,
        )

    def _make_incoming_moves(self) -> IncomingMoves:
        from wingsd.transfers.incoming.moves.manager import IncomingMoves  # noqa: PLC0415

        transfers = self._config.system.transfers
        starts = transfers.live.start
        return IncomingMoves(self.receiver, self.database, transfers.moves, starts=starts)

    def make_recovery(
        self, unfinished: list[TransferRecord], moves: Sequence[MoveRecord] = ()
    ) -> Recovery:
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
            moves=UnfinishedMoves(
                moves,
                self.incoming_moves,
                self.running,
                self._config.system.transfers.stop_grace,
                self.sender.give_up,
            ),
        )
