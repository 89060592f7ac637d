"""The HTTP interface of a node: its endpoints and its listeners."""

from __future__ import annotations

import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from wingsd.api import backup_paths, file_paths, server_paths, transfer_paths
from wingsd.api import node as api_node
from wingsd.api.revocations import Revocations
from wingsd.api.routes import (
    RESTORE,
    UPDATE,
    ApiRoot,
    InterfaceEndpoint,
    MetricsListener,
)
from wingsd.api.signed_urls import SignedUrls
from wingsd.app.reload import Reload
from wingsd.app.wiring.sftp import SftpWiring
from wingsd.config import Config
from wingsd.config.vendors import user_agent_of
from wingsd.config_file.updates import PanelUpdates
from wingsd.files.tasks import ChangeLanes, FileTasks
from wingsd.files.work import FileWork, Lane
from wingsd.http.answers import AnswerStyle
from wingsd.http.listener import HttpListener
from wingsd.http.site import NodeSite
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor
from wingsd.websocket import ConsoleSockets

if TYPE_CHECKING:
    from wingsd.files.pulls import Pulls
    from wingsd.guarded_http.client import GuardedClient
    from wingsd.metrics.exposition import Exposition

__all__ = ["HttpWiring"]


class HttpWiring(SftpWiring):
    """The objects of a node's HTTP interface."""

    def __init__(self, config: Config, endpoint: str, reactor: Reactor, path: str = "") -> None:
        """Raises `ConfigError` when the configuration names invalid files."""
        super().__init__(config, endpoint, reactor, path)
        self._http = HttpListener(config.api.ssl, endpoint, self._make_site(), reactor)
        self._metrics = MetricsListener(config, self._make_exposition(), reactor)
        self.reload = Reload(self.live, self._http.reload)

    @cached_property
    def file_work(self) -> FileWork:
        """What runs the work on servers' files."""
        pools = self.pools
        return FileWork(
            short=Lane(pools.files, each=2, waiting=1024),
            long=Lane(pools.searches, each=1, waiting=64),
            large=Lane(pools.listings, each=1, waiting=64),
            reads=pools.reads,
        )

    @cached_property
    def file_tasks(self) -> FileTasks:
        """The changes of servers' files."""
        pools = self.pools
        lanes = ChangeLanes(
            changes=Lane(pools.changes, each=2, waiting=1024),
            renames=Lane(pools.renames, each=1, waiting=1024),
            archives=Lane(pools.archivers, each=1, waiting=256),
            writes=Lane(pools.files, each=8, waiting=1024),
        )
        return FileTasks(self.file_work, lanes, self._reactor, time.time)

    @cached_property
    def pulls(self) -> Later[Pulls]:
        """The downloads into servers' files."""
        return Later(self._make_pulls)

    def _make_pulls(self) -> Pulls:
        # Here, since a node at rest saves what they import.
        from wingsd.files.pulls import PullOptions, Pulls  # noqa: PLC0415
        from wingsd.guarded_http.limits import FetchLimits  # noqa: PLC0415

        api = self._config.api
        limits = FetchLimits(redirects=api.remote_download.max_redirects)
        options = PullOptions(api.server_remote_download_limit, limits)
        return Pulls(
            self.file_work, self.file_tasks, self._bus, options, self._download_client, time.time
        )

    def _download_client(self) -> GuardedClient:
        return self._guarded_client

    @cached_property
    def _guarded_client(self) -> GuardedClient:
        # Here, since h11 and what checks certificates take 1 MiB, which a node at rest saves.
        from wingsd.guarded_http.client import GuardedClient  # noqa: PLC0415
        from wingsd.guarded_http.policy import AddressPolicy  # noqa: PLC0415

        api = self._config.api
        allowed, blocked = api.remote_download.host_allowlist, api.remote_download_blocked_cidrs
        policy = AddressPolicy.of(allowed, blocked)
        agent = user_agent_of(self._config.family)
        return GuardedClient(self._reactor, policy, agent, self.resolve)

    def _make_site(self) -> NodeSite:
        config = self._config
        transfers = config.system.transfers
        endpoints = [
            partial(InterfaceEndpoint, config),
            *self._node_endpoints(),
            *self._server_endpoints(),
            *self._transfer_endpoints(),
        ]
        root, style = ApiRoot(endpoints), AnswerStyle(config)
        self.live.follow(root.use)
        self.live.follow(style.use)
        return NodeSite(
            root,
            reactor=self._reactor,
            timeout=transfers.stall_timeout,
            least_rate=transfers.least_rate,
            limits=config.api.limits,
            observer=self.observer,
            style=style,
        )

    def _node_endpoints(self) -> list[partial[Any]]:
        config = self._config
        # `reload` is made later.
        updates = PanelUpdates(self.live, self.pools.disk, lambda: self.reload(only_new=True))
        return [
            *api_node.endpoints(config, self.node_parts, self.servers, self._reactor),
            partial(UPDATE, config, updates),
        ]

    def _server_endpoints(self) -> list[partial[Any]]:
        config, servers = self._config, self.servers
        activity = self.reports.activity
        sockets = ConsoleSockets(config, self._bus, self.denied, activity, self._reactor)
        self.live.follow(sockets.use)
        return [
            *server_paths.endpoints(
                config,
                servers,
                sockets,
                Revocations(self.denied, self.database, time.time),
                self.sftp,
            ),
            server_paths.server_endpoint(
                config,
                servers,
                self.receiver,
                self.sender,
                self.restores,
                self.backup_deletion,
            ),
            partial(
                RESTORE,
                config,
                servers,
                self.restores,
                lambda: self.restore_links,
                self.pools.disk,
            ),
            *server_paths.install_endpoints(config, servers, self.installations),
            *self._signed_endpoints(),
            *backup_paths.endpoints(config, servers, self.made_backups, self.backup_deletion),
            *file_paths.endpoints(config, servers, self.file_work, self.file_tasks, self.pulls),
        ]

    def _signed_endpoints(self) -> list[partial[Any]]:
        urls = SignedUrls(self.servers, self.denied, self.database)
        archives = Lane(self.pools.downloads, each=2, waiting=64)
        activity = self.reports.activity
        return file_paths.signed_endpoints(self._config, urls, self.file_work, archives, activity)

    def _transfer_endpoints(self) -> list[partial[Any]]:
        config, incoming = self._config, self._incoming_direct
        bucket = self._bucket(config.system.transfers.download_limit)
        return [
            *transfer_paths.endpoints(
                config, self.servers, self.receiver, self.sender, self.streams, incoming, bucket
            ),
            transfer_paths.direct_endpoint(config, incoming, self.database),
            *transfer_paths.move_endpoints(
                config, self.incoming_moves, incoming, self._reactor, bucket
            ),
        ]

    def _make_exposition(self) -> Exposition | None:
        if self._prometheus is None:
            return None
        from wingsd.metrics.exposition import Exposition, Sources  # noqa: PLC0415 (as above)

        activity, checks = self.reports.activity, self.backup_checks.get()
        sources = Sources(self.receiver, self.sender, self.callbacks, activity, checks, self.sftp)
        # What is counted waits while a kept copy is removed.
        disk, data = self.pools.long, self._config.system.data

        def kept() -> int:
            return self.partial_copies.get().kept_bytes()

        return Exposition(self._prometheus, sources, disk, data, kept, self._reactor)
