"""A daemon that answers over a real socket what a test says, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any

import pytest

from tests.support.node_process import CommandResult
from wingsd.cli.__main__ import main

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


class Scripted:
    """A daemon. Each request is answered by the next of its answers; the last is given again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, str, Any]] = []
        self._answers: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        self._server: ThreadingUnixStreamServer | None = None

    def answers(self, method: str, path: str, *content: Any, status: int = 200) -> None:
        bodies = [
            each if isinstance(each, bytes) else json.dumps(each).encode() for each in content
        ]
        self._answers[method, f"/v1/{path}"] = [(status, body) for body in bodies]

    def start(self) -> None:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                scripted.asked.append(
                    (self.command, self.path, json.loads(body) if body else None)
                )
                ready = scripted._answers.get((self.command, self.path), [(404, b"{}")])
                status, content = ready.pop(0) if len(ready) > 1 else ready[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(BrokenPipeError):  # the command may have read enough
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingUnixStreamServer(str(self.path), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self.path.unlink()


class Command:
    """`wingsctl`, run in this process against one socket."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *words: str) -> CommandResult:
        with pytest.raises(SystemExit) as ended:
            main(["--socket", str(self.path), *words], prog_name="wingsctl")
        code: Any = ended.value.code
        printed = self._capsys.readouterr()
        return CommandResult(int(code or 0), printed.out, printed.err)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made = Scripted(tmp_path / "control.sock")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def wingsctl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, for the daemon where there is one."""
    return Command(tmp_path / "control.sock", capsys)


COMMON = {
    "transfer": 7,
    "server": UUID,
    "direction": "out",
    "by_hand": True,
    "storage_pool": None,
    "step": "send",
    "begun": 1_700_000_000.0,
}


def running(**changes: Any) -> dict[str, Any]:
    """Return a transfer under way, as the daemon tells it."""
    return {
        **COMMON,
        "state": "processing",
        "doing": "sending the archive",
        "bytes": 512 * 1024**2,
        "total_bytes": 1024**3,
        "bytes_per_second": 64.0 * 1024**2,
        "resumed_bytes": 0,
    } | changes


def past(**changes: Any) -> dict[str, Any]:
    """Return a transfer that has ended, as the daemon tells it."""
    ended = {"outcome": "success", "reason": "", "ended": 1_700_000_200.0}
    return {**COMMON, **ended, "bytes": 1024**3, "files": 12} | changes


def found(**changes: Any) -> dict[str, Any]:
    """Return what the daemon knows of one server's transfers."""
    return {
        "uuid": UUID,
        "server": None,
        "running": None,
        "expected": None,
        "past": [],
        "reports_waiting": [],
    } | changes
