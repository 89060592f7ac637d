"""A daemon and a Panel that answer over real sockets, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer, ThreadingUnixStreamServer
from threading import Thread
from typing import Any

import pytest

from tests.support.node_process import CommandResult
from wingsd.cli.__main__ import main

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


class Answering:
    """A server of HTTP. Each request is answered by the next of its answers; the last again."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answers: dict[tuple[str, str], list[tuple[int, bytes, dict[str, str]]]] = {}
        self._server: BaseServer | None = None

    def _answer(
        self, method: str, path: str, content: Any, status: int, headers: dict[str, str]
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._answers.setdefault((method, path), []).append((status, body, named))

    def _serve(self, kind: Callable[..., BaseServer], address: object) -> BaseServer:
        answering = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = json.loads(body) if body else None
                answering.asked.append((self.command, self.path, asked))
                answering.headers.append(dict(self.headers))
                ready = answering._answers.get((self.command, self.path), [(404, b"{}", {})])
                status, content, headers = ready.pop(0) if len(ready) > 1 else ready[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(BrokenPipeError):  # the command may have read enough
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        self._server = kind(address, Handler)
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Scripted(Answering):
    """A daemon, at its control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._serve(ThreadingUnixStreamServer, str(path))

    def answers(self, method: str, path: str, *content: Any, status: int = 200) -> None:
        self._answers.pop((method, f"/v1/{path}"), None)
        for each in content:
            self._answer(method, f"/v1/{path}", each, status, {})

    def stop(self) -> None:
        super().stop()
        self.path.unlink(missing_ok=True)


class HttpPanel(Answering):
    """A Panel; a page that it does not know is a 404."""

    def __init__(self) -> None:
        super().__init__()
        server: Any = self._serve(ThreadingHTTPServer, ("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.server_port}"

    def answers(
        self, method: str, path: str, content: Any = b"", status: int = 200, **headers: str
    ) -> None:
        self._answer(method, path, b"" if content is None else content, status, headers)

    def page(self, path: str, found: list[Any], page: int = 1, of: int = 1) -> None:
        """Answer with a page of a list in the form of Laravel's."""
        data = [{"object": "x", "attributes": each} for each in found]
        meta = {"pagination": {"total_pages": of, "current_page": page}}
        join = "&" if "?" in path else "?"
        self.answers("GET", f"{path}{join}per_page=100&page={page}", {"data": data, "meta": meta})


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
