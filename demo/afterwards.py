"""What there is to try while the demo is left running: commands, ready to be pasted."""

from __future__ import annotations

import json
from pathlib import Path

from demo.document import DocumentUpload, shown
from demo.node import RunningNode
from demo.show import heading, line
from demo.stage import Stage

__all__ = ["show_what_to_try"]


def _call(node: RunningNode, method: str, path: str, body: object = None) -> list[str]:
    """Return the curl command of a call that a Panel makes."""
    command = [
        *("curl", "-X", method, f"{node.node.address}{path}"),
        *("-H", f"Authorization: Bearer {node.node.token}"),
        *("--cacert", str(node.authority)),
    ]
    return command if body is None else [*command, "-d", json.dumps(body)]


async def show_what_to_try(stage: Stage, server: str, spare: str, files: Path) -> None:
    """Print the commands; `server` is the game on node B, `spare` one that is nowhere yet."""
    a, b = stage.a, stage.b
    heading("It is left running; Ctrl-C ends it and removes everything. What to try:")
    print("What the game on node B uses:\n")
    print(shown(_call(b, "GET", f"/api/servers/{server}")))
    print("Stop and start it:\n")
    for action in ("stop", "start"):
        print(shown(_call(b, "POST", f"/api/servers/{server}/power", {"action": action})))
    print("Move it back to node A, as the Panel would:\n")
    order = stage.panel.transfer_order(server, a.node)
    stage.panel.open_transfer(server, a.node)
    print(shown(_call(b, "POST", f"/api/servers/{server}/transfer", order)))
    print("Upload another server to node A, as the document has it:\n")
    upload = DocumentUpload(stage, spare, files, a)
    await upload.prepare()
    print(shown(upload.command(upload.token(), f"{stage.directory}/")))
    for node in (a, b):
        line(f"node {node.name}", f"{node.volumes}\n{node.config}\n{node.log_file}")
    line("tokens", "good for 15 minutes, and for one success")
