"""The game server of a quick demo: a shell script on busybox that counts how often it started."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo.engine import Engine
from demo.game import BALLAST, NAME_SETTING, Landmark, port_line
from demo.watch import Watch
from tests.support import process_configuration
from tests.support.image import image_tar

__all__ = ["Counter"]

_SCRIPT = """\
#!/bin/sh
# Stands in for a game server: it keeps a state, prints it, and answers on its console.
starts=0
[ -e world/starts ] && read -r starts <world/starts
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
echo "start $starts, the sign reads $sign"
echo "listening on $port"
while read -r word; do
    case $word in
        stop) echo "saved"; exit 0 ;;
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
_LANDMARK = re.compile(r"^start (\d+), (the sign reads [\w-]{36})")


class Counter:
    """A script with a file it counts its starts in, and a sign that it made at its first."""

    title = "a shell script that counts its starts"
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

    def make_image(self, engine: Engine, cache: Path) -> str:
        """Make the image."""
        engine.make_image(self.image, image_tar())
        return "made of busybox"

    def port_written(self, tree: Path) -> int:
        """Return the port in counter.conf."""
        return int((tree / "counter.conf").read_text().split()[2])

    def landmark(self, console: Iterable[str]) -> Landmark | None:
        """Return what the script found in its files."""
        told = [found for line in console if (found := _LANDMARK.search(line))]
        return Landmark(int(told[-1][1]), told[-1][2]) if told else None

    async def greet(self, reactor: Any, watch: Watch, port: int) -> str:
        """Say hello on its console, as a user of the Panel does."""
        watch.send("send command", "hello")
        answer = re.compile(rf"you said 'hello' to start \d+ on {port}$")
        return await watch.console_line(answer)
