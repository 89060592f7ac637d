"""Commands to try while the demo keeps running, ready to be pasted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from demo.node import RunningNode
from demo.output import heading, line
from demo.testbed import Testbed
from demo.upload import CurlUpload, shown

__all__ = ["print_suggestions"]


def _call(node: RunningNode, method: str, path: str, body: object = None) -> list[str]:
    """Return the curl command of a call that a Panel makes."""
    command = [
        *("curl", "-X", method, f"{node.node.address}{path}"),
        *("-H", f"Authorization: Bearer {node.node.token}"),
        *("--cacert", str(node.authority)),
    ]
    return command if body is None else [*command, "-d", json.dumps(body)]


async def print_suggestions(testbed: Testbed, server: str, spare: str, files: Path) -> None:
    """Print the commands; `server` is the game on node A, `spare` a UUID without a server."""
    a, b = testbed.a, testbed.b
    heading("Everything keeps running; Ctrl-C ends and removes it. Commands to try:")
    print("State and resource usage of the game on node A:\n")
    print(shown(_call(a, "GET", f"/api/servers/{server}")))
    print("The nodes as their operator sees them; wingsctl --help lists more:\n")
    for node, words in ((a, "status"), (a, "top"), (a, f"show {server}"), (b, "transfers")):
        print(f"  {sys.executable} -m wingsd.cli --socket {node.control} {words}")
    print("\nStop and start it:\n")
    for action in ("stop", "start"):
        print(shown(_call(a, "POST", f"/api/servers/{server}/power", {"action": action})))
    print("Move it to node B while it runs, as the Panel would:\n")
    order = testbed.panel.transfer_order(server, b.node)
    testbed.panel.open_transfer(server, b.node)
    print(shown(_call(a, "POST", f"/api/servers/{server}/transfer", order)))
    print("Upload another server to node B, as documented:\n")
    upload = CurlUpload(testbed, spare, files, b)
    await upload.prepare()
    print(shown(upload.command(upload.token(), f"{testbed.directory}/")))
    for node in (a, b):
        line(f"node {node.name}", f"{node.volumes}\n{node.config}\n{node.log_file}")
    line("tokens", "valid for 15 minutes, and for one success")
