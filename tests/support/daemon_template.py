"""A process that has imported the daemon and forks one on request, without half a second of CPU.

A daemon of it is a process like any other, and does all that `twistd wingsd` does after its
imports. It is run with the descriptor of a socket. A request there is JSON with the command's
`arguments`, the `environment` and the `directory`, and brings two descriptors: the daemon's
output, and what gets its process id and at its end its status by wait(2), each on a line.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import socket
import sys
from contextlib import suppress
from typing import Any

from twisted.application.service import IServiceMaker
from twisted.internet import epollreactor
from twisted.plugin import getPlugins
from twisted.scripts import twistd

from wingsd import tap

#: Imported for the daemons. The reactor is not: it must not be shared.
PRELOADED = (epollreactor, tap)
LARGEST_REQUEST = 1 << 20


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
            request, descriptors, _, _ = socket.recv_fds(channel, LARGEST_REQUEST, 2)
            if not request:
                return
            output, report = descriptors
            pid = os.fork()
            if not pid:
                channel.detach()
                become_daemon(output, **json.loads(request))
            os.write(report, b"%d\n" % pid)
            os.close(output)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))


def report_end(pid: int, report: int) -> None:
    """Reap a daemon, and write its status to whoever has started it."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # It may have gone away, or not care any more.
        os.write(report, b"%d\n" % status)
    os.close(report)


def become_daemon(
    output: int, arguments: list[str], environment: dict[str, str], directory: str
) -> None:
    """Do what the command does. Raises `SystemExit`."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv[:] = arguments
    sys.exit(twistd.run())


def main() -> None:
    """Serve the socket that is given by its descriptor."""
    makers: Any = getPlugins(IServiceMaker)
    list(makers)  # reads what is installed, once
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
