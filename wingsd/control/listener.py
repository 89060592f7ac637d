"""The control socket: its paths, and where it listens."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from wingsd.config import Control
from wingsd.control.resource import ControlContext, ControlEndpoint
from wingsd.control.status import StatusEndpoint
from wingsd.control.transfers import (
    ControlTransfersEndpoint,
    ReceiveEndpoint,
    SendEndpoint,
    TransferEndpoint,
)
from wingsd.http.site import NodeSite, Paths
from wingsd.util.net import accept_few

__all__ = ["PATHS", "ControlApi", "ControlListener"]

PATHS: Mapping[str, type[ControlEndpoint]] = {
    "/v1/status": StatusEndpoint,
    "/v1/transfers": ControlTransfersEndpoint,
    "/v1/transfers/{uuid}": TransferEndpoint,
    "/v1/receive": ReceiveEndpoint,
    "/v1/send": SendEndpoint,
}


class ControlApi(Paths[ControlContext]):
    """What is found below the root of the control socket."""

    def __init__(self, rooms: ControlContext) -> None:
        super().__init__(PATHS, rooms)


#: Who may open it: its owner and its group.
MODE = 0o660
#: Seconds that a client may take for a request.
TIMEOUT = 30
#: Seconds that its last answers have to be read.
DRAIN_WITHIN = 1.0


class ControlListener:
    """The control socket of a node, as `rooms.services.config.control` has it."""

    _log = Logger()

    def __init__(self, rooms: ControlContext) -> None:
        self._settings: Control = rooms.services.config.control
        self._reactor = rooms.reactor
        self._site = NodeSite(ControlApi(rooms), reactor=rooms.reactor, timeout=TIMEOUT)
        self._port: IListeningPort | None = None

    def open(self) -> None:
        """Listen. What prevents that is logged, with what to do."""
        path = self._settings.socket
        if not path:
            self._log.info("there is no control socket: control.socket is empty")
            return
        try:
            _make_room(path)
            _check_usable(path)
            port = self._reactor.listenUNIX(path, self._site, mode=MODE)
        except (OSError, CannotListenError) as error:
            self._log.warn(
                "wingsctl cannot speak to this node: no socket could be made at {path}: {reason}",
                path=path,
                reason=_reason(error, path),
            )
            return
        accept_few(port, self._reactor)
        self._port = port
        self._give_to_group(path)
        self._log.info("wingsctl may speak to this node at {path}", path=path)

    async def close(self) -> None:
        """Listen no more, and end what is left."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
            await self._site.drain(DRAIN_WITHIN)

    def _give_to_group(self, path: str) -> None:
        group = self._settings.group
        if not group:
            return
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except (KeyError, OSError) as error:
            why = "there is no such group" if isinstance(error, KeyError) else error
            self._log.warn(
                "the control socket stays with the daemon's own group, since {group} cannot have "
                "it: {why}",
                group=group,
                why=why,
            )


def _make_room(path: str) -> None:
    """Remove a socket on which nobody listens any more. Raises `OSError`."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError("there is something else than a socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # so many wait to be taken that somebody must be there
    raise FileExistsError(
        "another daemon listens there; give this one another path as control.socket"
    )


def _check_usable(path: str) -> None:
    """Raise `OSError` where no socket can be made at `path`, before anything is logged about it.

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
                f"there is no directory {directory}; make it (systemd does with "
                "RuntimeDirectory=), or name another path as control.socket, or none"
            )
        case PermissionError():
            return f"the daemon may not write in {directory}; give that to its user"
        case OSError():
            return cause.strerror or str(cause)
    return str(cause)
