"""A process that has imported the daemon and forks one on request, without a second of CPU.

A daemon of it is a process like any other, and does all that `twistd wingsd` does after its
imports. So is a `wingsctl` of it. It is run with the descriptor of a socket. A request there is
JSON with the command's `arguments`, the `environment` and the `directory`, and brings three
descriptors: the command's output and its errors, and what gets its process id and at its end its
status by wait(2), each on a line.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import attrs
from twisted.application.service import IServiceMaker
from twisted.internet import epollreactor
from twisted.plugin import getPlugins
from twisted.scripts import twistd

import wingsd
from wingsd import tap
from wingsd.cli import __main__ as wingsctl
from wingsd.config import Config
from wingsd.panel.schemas import Process, Settings
from wingsd.util.retry import Backoff
from wingsd.util.serialization import structure

#: Imported for the daemons. The reactor is not: it must not be shared.
PRELOADED = (epollreactor, tap)
#: The package of another program.
OTHER = "wingsd.sftp.server"
LARGEST_REQUEST = 1 << 20
_SOON = Backoff(0.05, 1.0)
#: Pauses that tests do not wait for as long as users do: constants of modules.
SHORTER: dict[str, dict[str, Any]] = {
    "callbacks": {"MINUTE_BACKOFF": _SOON, "BACKOFF": _SOON},
    "cli.backups": {"POLL_INTERVAL": 0.05},
    "cli.evacuation.sequence": {"ASK_AGAIN": 0.5},
    "cli.history": {"POLL_INTERVAL": 0.05},
    "cli.progress": {"POLL_INTERVAL": 0.05},
    "cli.rewind": {"POLL_INTERVAL": 0.05},
    "direct_transfers.wanted_seeds": {"PAUSES": _SOON},
    "history.capture": {"_PAUSE": 0.03},
    "panel.client": {"BACKOFF": _SOON},
    "restores.rewinding": {"BACKOFF": _SOON},
    "servers.registry": {"BACKOFF": _SOON},
    "servers.running": {"BACKOFF": _SOON},
    "transfers.coordinator": {"OWNERSHIP_BACKOFF": _SOON, "GRACE_BACKOFF": _SOON},
    "transfers.outgoing.move": {"LOOK_EVERY": 0.2},
    "transfers.outgoing.rounds": {"LOOK_EVERY": 0.1},
    "transfers.peer.moves": {"PAUSES": _SOON, "RESUME_AFTER": 0.2},
}


def serve(channel: socket.socket) -> None:
    """Fork daemons until the other end is closed; return then, and in each daemon raise its end.

    Raises `SystemExit` in a daemon.
    """
    # Not by SIGCHLD: its handler may be interrupted by itself, in the middle of a wait.
    waiting = selectors.PollSelector()
    waiting.register(channel, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not channel:
                waiting.unregister(key.fd)
                os.close(key.fd)
                report_end(*key.data)
                continue
            request, descriptors, _, _ = socket.recv_fds(channel, LARGEST_REQUEST, 3)
            if not request:
                return
            output, errors, report = descriptors
            pid = os.fork()
            if not pid:
                channel.detach()
                become(output, errors, **json.loads(request))
            os.write(report, b"%d\n" % pid)
            os.close(output)
            os.close(errors)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))


def report_end(pid: int, report: int) -> None:
    """Reap a daemon, and write its status to whoever has started it."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # It may have gone away, or not care any more.
        os.write(report, b"%d\n" % status)
    os.close(report)


def become(
    output: int, errors: int, arguments: list[str], environment: dict[str, str], directory: str
) -> None:
    """Do what the command does. Raises `SystemExit`."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv[:] = arguments
    if arguments[0] == "wingsctl":
        wingsctl.main(prog_name="wingsctl")
    sys.exit(twistd.run())


def prepare() -> None:
    """Import what daemons import when they need it, compile their readers, and set pauses."""
    for module in walk_packages(wingsd.__path__, "wingsd."):
        if not module.name.startswith(OTHER):
            import_module(module.name)
    for value in (Config("id", "token", "http://127.0.0.1:1"), Settings("uuid"), Process()):
        structure(json.loads(json.dumps(attrs.asdict(value))), type(value))
    for name, constants in SHORTER.items():
        known = vars(import_module(f"wingsd.{name}"))
        assert constants.keys() <= known.keys(), name
        known.update(constants)


def main() -> None:
    """Serve the socket that is given by its descriptor."""
    makers: Any = getPlugins(IServiceMaker)
    list(makers)  # reads what is installed, once
    prepare()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
