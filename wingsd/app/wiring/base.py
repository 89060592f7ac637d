"""What all parts of a node use: threads, directories, the state database and the Panel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wingsd.activity import ActivityLog, ActivitySender, CrashActivity
from wingsd.app.process import Pools
from wingsd.app.reports import PanelReports
from wingsd.auth.tokens import DenyList
from wingsd.backups.received import ReceivedBackups
from wingsd.callbacks import CallbackQueue
from wingsd.callbacks.container_status import ContainerStatuses
from wingsd.config import PELICAN, Config
from wingsd.config.live import LiveConfig
from wingsd.events import EventBus
from wingsd.guarded_http.resolver import host_resolver
from wingsd.metrics import MovedBytes
from wingsd.panel.client import Panel
from wingsd.servers.quotas import ProjectQuotas
from wingsd.statedb import StateDatabase
from wingsd.statedb.store import Store
from wingsd.threadio import TokenBucket
from wingsd.transfers.storage.staging import Staging
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.metrics.recorder import Recorder

__all__ = ["BaseWiring"]

MIB = 1024 * 1024


class BaseWiring:
    """The objects that all parts of a node use."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """`path` is the file of the configuration, empty without one.

        Raises `ConfigError` when the configuration names invalid files.
        """
        self._config = config
        self.live = LiveConfig(config, path)
        self._reactor = reactor
        self.owner = (config.system.user.uid, config.system.user.gid)
        transfers = config.system.transfers
        self.pools = self._make_pools()
        # On a shared volume the directories of each node have its name.
        name, data = config.uuid if transfers.storage_pool.name else "", config.system.data
        self.quotas = ProjectQuotas(data, enabled=config.system.quotas.enabled)
        self.staging = Staging(
            data,
            self.owner,
            durable=transfers.durable,
            node=name,
            prepare_directory=self.quotas.prepare,
        )
        self.backups = ReceivedBackups.configured(config.system, config.uuid)
        self._bus = EventBus()
        self._prometheus = self._make_prometheus()
        self.observer = self._make_observer()
        self.resolve = host_resolver(self.pools.lookups)
        self.panel = self._make_panel()
        self.store = Store(config.system.root_directory)
        self.database = StateDatabase(self.store, self.pools.database, time.time)
        self.callbacks = CallbackQueue(self.panel, self.database, reactor)
        self.reports = self._make_reports()
        self.denied = DenyList(time.time())

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
        panel = Panel(self._config, self._reactor, observer=self.observer)
        self.live.follow(panel.use)
        return panel

    def _make_reports(self) -> PanelReports:
        panel, reactor, system = self.panel, self._reactor, self._config.system
        log = ActivityLog(self.database, reactor, system.activity_max_entries)
        CrashActivity(self._config.family, log, self._bus)
        interval, count = system.activity_send_interval, system.activity_send_count
        sender = ActivitySender(log, panel, reactor, interval, count)
        # Of the Panels, only Pelican's has a path for it.
        tells = self._config.family == PELICAN
        return PanelReports(
            log, sender, ContainerStatuses(panel, self._bus, reactor) if tells else None
        )

    def _bucket(self, limit: int, yielded: float = 1.0) -> TokenBucket | None:
        return TokenBucket(self._reactor, limit * MIB, yielded) if limit > 0 else None
