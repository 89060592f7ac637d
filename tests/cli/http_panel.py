"""A Panel that answers over a real socket what a test says."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class HttpPanel:
    """A Panel. A page that it does not know is a 404; answers are given once, the last again."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answers: dict[tuple[str, str], list[tuple[int, bytes, dict[str, str]]]] = {}
        panel = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                panel.asked.append((self.command, self.path, json.loads(body) if body else None))
                panel.headers.append(dict(self.headers))
                ready = panel._answers.get((self.command, self.path), [(404, b"{}", {})])
                status, content, headers = ready.pop(0) if len(ready) > 1 else ready[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answers(
        self, method: str, path: str, content: Any = None, status: int = 200, **headers: str
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        ready = self._answers.setdefault((method, path), [])
        ready.append((status, b"" if content is None else body, named))

    def page(self, path: str, found: list[Any], page: int = 1, of: int = 1) -> None:
        """Answer with a page of a list in the form of Laravel's."""
        data = [{"object": "x", "attributes": each} for each in found]
        meta = {"pagination": {"total_pages": of, "current_page": page}}
        join = "&" if "?" in path else "?"
        self.answers("GET", f"{path}{join}per_page=100&page={page}", {"data": data, "meta": meta})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
