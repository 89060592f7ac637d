"""The game server of a quick demo: a shell script on busybox that writes all the time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from demo.engine import HOST, Engine
from demo.game import BALLAST, NAME_SETTING, Landmark, last_number, port_line
from demo.output import Failed
from tests.support import process_configuration
from tests.support.image import image_tar

__all__ = ["Counter"]

_SCRIPT = """\
#!/bin/sh
# Stands in for a game server: it has a world that changes ten times a second, serves it by HTTP,
# and answers on its console.
bb=/bin/busybox
starts=0 changes=0
[ -e world/starts ] && read -r starts <world/starts
[ -e world/changes ] && read -r changes <world/changes
starts=$((starts + 1))
echo "$starts" >world/starts
if [ ! -e world/sign ]; then
    read -r sign </proc/sys/kernel/random/uuid
    echo "$sign" >world/sign
fi
read -r sign <world/sign
{ read -r port && read -r name; } <counter.conf
port=${port#port = }
echo "the server is called ${name#server_name = }"
echo "start $starts, the sign reads $sign, $changes changes"
change() {
    trap 'exit 0' TERM
    while :; do
        changes=$((changes + 1))
        $bb dd if=/dev/urandom of=world/region bs=4096 count=1 seek=$((changes * 7 % 1024)) \\
            conv=notrunc
        echo "$changes" >world/changes.new && $bb mv world/changes.new world/changes
        $bb sleep 0.1
    done
}
change 2>/dev/null &
changing=$!
$bb httpd -f -p "$port" -h world &
echo "listening on $port"
while read -r word; do
    case $word in
        stop)
            kill "$changing"
            wait "$changing"
            read -r changes <world/changes
            echo "saved, $changes changes"
            exit 0
            ;;
        *) echo "you said '$word' to start $starts on $port" ;;
    esac
done
"""
# Busybox is the image's only program.
_INSTALL = f"""\
for name in chmod cat head ln mkdir; do alias $name="busybox $name"; done
cd /mnt/server || exit
echo "Writing counter.sh"
mkdir -p world
cat >counter.sh <<'END'
{_SCRIPT}END
chmod 755 counter.sh
cat >counter.conf <<'END'
port = 1
{NAME_SETTING}A server that travels
END
ln -s counter.sh start
echo "Writing 48 MiB of a world"
{BALLAST}"""
_LANDMARK = re.compile(r"^start (\d+), (the sign reads [\w-]{36}), (\d+) changes")
_STOP = re.compile(r"^saved, (\d+) changes")
#: Seconds for an answer.
_WITHIN = 2


class Counter:
    """A script that counts its starts and changes, with a sign that it made at its first start."""

    title = "a shell script that counts its starts, and changes its world all the time"
    image = "wingsd-demo/counter:busybox"
    keeps_image = False
    invocation = "sh counter.sh"
    process = process_configuration(
        startup={"done": ["regex:^listening on \\d+"], "user_interaction": []},
        stop={"type": "command", "value": "stop"},
        configs=[port_line("counter.conf")],
    )
    script = _INSTALL
    settings = "counter.conf"
    treasure = "world/sign"

    def make_image(self, engine: Engine, cache: Path) -> str:
        """Make the image."""
        engine.make_image(self.image, image_tar())
        return "made of busybox"

    def port_written(self, tree: Path) -> int:
        """Return the port in counter.conf."""
        return int((tree / "counter.conf").read_text().split()[2])

    def landmark(self, console: Iterable[str]) -> Landmark | None:
        """Return what the script found in its files."""
        return Landmark.found(_LANDMARK, console)

    def changes_at_stop(self, console: Iterable[str]) -> int | None:
        """Return how many changes the script had made when it was stopped."""
        return last_number(_STOP, console)

    async def ask(self, reactor: Any, port: int) -> str:
        """Ask for the sign by HTTP."""
        endpoint = TCP4ClientEndpoint(reactor, HOST, port, timeout=_WITHIN)
        request = Request()
        try:
            await connectProtocol(endpoint, request)
            answer = await request.answer.addTimeout(_WITHIN, reactor)
        except (ConnectError, TooLate):
            answer = b""
        finally:
            request.close()
        if not answer.startswith(b"HTTP/1.") or b" 200 " not in answer:
            raise Failed(f"nothing answers on TCP {HOST}:{port}")
        return f"TCP {HOST}:{port} answers by HTTP: {answer.splitlines()[-1].decode()}"


class Request(Protocol):
    """One request for the sign; `answer` fires at the end of the connection."""

    transport: Any

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._received = b""

    def connectionMade(self) -> None:
        self.transport.write(b"GET /sign HTTP/1.0\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.callback(self._received)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.transport is not None:
            self.transport.abortConnection()
