"""The control socket: its paths, and its listening socket."""

from __future__ import annotations

import grp
import os
import socket
import stat
from functools import partial
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from wingsd.api.context import NodeContext
from wingsd.api.routes import Route, calls_by_path, root
from wingsd.config import Control
from wingsd.control.calls import (
    ControlBackupsEndpoint,
    ControlTransfersEndpoint,
    StatusEndpoint,
)
from wingsd.http.operations import Access
from wingsd.http.site import NodeSite
from wingsd.util.net import limit_accepts

_route = partial(Route, families=(), access=Access.CONTROL)
#: The routes of the control socket.
ROUTES = (
    _route("GET", "/v1/status", StatusEndpoint.get_status),
    _route("GET", "/v1/diagnostics", StatusEndpoint.get_diagnostics),
    _route("GET", "/v1/backups", ControlBackupsEndpoint.list_backups),
    _route("POST", "/v1/backups/{backup}/verify", ControlBackupsEndpoint.begin_check),
    _route("GET", "/v1/backups/{backup}/verify", ControlBackupsEndpoint.show_check),
    _route("POST", "/v1/backups/{backup}/for-wings", ControlBackupsEndpoint.begin_rewrite),
    _route("GET", "/v1/backups/{backup}/for-wings", ControlBackupsEndpoint.show_rewrite),
    _route("GET", "/v1/servers", ControlTransfersEndpoint.list_servers),
    _route("GET", "/v1/transfers", ControlTransfersEndpoint.list_transfers),
    _route("GET", "/v1/transfers/{uuid}", ControlTransfersEndpoint.show_transfers),
    _route("DELETE", "/v1/transfers/{uuid}", ControlTransfersEndpoint.cancel_transfer),
    _route("DELETE", "/v1/kept/{uuid}", ControlTransfersEndpoint.forget_kept),
    _route("POST", "/v1/receive", ControlTransfersEndpoint.expect_server),
    _route("POST", "/v1/send", ControlTransfersEndpoint.begin_sending),
)

#: The owner and the group may open the socket.
MODE = 0o660
#: Seconds that a client may take for a request.
TIMEOUT = 30
#: Seconds that clients have at the end to read the last answers.
DRAIN_TIMEOUT = 1.0


class ControlListener:
    """Listens on the control socket of a node."""

    _log = Logger()

    def __init__(self, settings: Control, node: NodeContext) -> None:
        self._settings = settings
        self._reactor = node.reactor
        paths = root(node, calls_by_path(ROUTES))
        self._site: Any = NodeSite(paths, reactor=node.reactor, timeout=TIMEOUT)
        self._port: IListeningPort | None = None

    def open(self) -> None:
        """Listen. An error is logged with its remedy; the daemon runs without the socket."""
        path = self._settings.socket
        if not path:
            self._log.info("no control socket: control.socket is empty")
            return
        try:
            _remove_stale(path)
            _check_bind(path)
            port = self._reactor.listenUNIX(path, self._site, mode=MODE)
        except (OSError, CannotListenError) as error:
            self._log.warn(
                "no control socket at {path}, wingsctl cannot be used: {reason}",
                path=path,
                reason=_reason(error, path),
            )
            return
        limit_accepts(port, self._reactor)
        self._port = port
        self._give_to_group(path)
        self._log.info("control socket for wingsctl: {path}", path=path)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            await self._site.drain(DRAIN_TIMEOUT)

    def _give_to_group(self, path: str) -> None:
        group = self._settings.group
        if not group:
            return
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except (KeyError, OSError) as error:
            reason = "there is no such group" if isinstance(error, KeyError) else error
            self._log.warn(
                "the control socket was not given to the group {group}, it keeps the daemon's own "
                "group: {reason}",
                group=group,
                reason=reason,
            )


def _remove_stale(path: str) -> None:
    """Remove a socket that no process listens on. Raises `OSError`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError("it exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # The queue of a process that listens is full.
    raise FileExistsError("another daemon listens on it; set another path as control.socket")


def _check_bind(path: str) -> None:
    """Raise `OSError` when no socket can be created at `path`.

    Twisted logs that it listens before it tries to.
    """
    with socket.socket(socket.AF_UNIX) as trial:
        trial.bind(path)
    os.unlink(path)


def _reason(error: OSError | CannotListenError, path: str) -> str:
    cause: Any = error.socketError if isinstance(error, CannotListenError) else error
    directory = os.path.dirname(path)
    match cause:
        case FileNotFoundError() | NotADirectoryError():
            return (
                f"there is no directory {directory}; create it (in a systemd unit with "
                "RuntimeDirectory=), or set another path as control.socket, or an empty one"
            )
        case PermissionError():
            return f"no permission to write to {directory}; it must belong to the daemon's user"
        case OSError():
            return cause.strerror or str(cause)
    return str(cause)
