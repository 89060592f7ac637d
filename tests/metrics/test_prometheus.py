"""A real Prometheus scrapes two nodes, and evaluates what the dashboard and the alerts ask for."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.metrics.exposed import exposition, rendered, server, sources, told
from tests.metrics.test_monitoring import RULES, SELECTOR, queries
from tests.support.node_process import free_port


class Node:
    """A node that serves what it exports."""

    def __init__(self, name: str) -> None:
        shown = sources(servers_all=lambda: [server(name)])
        exposed = exposition(told(), shown)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, kind = rendered(exposed, self.headers.get("Accept", ""))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.http.server_port}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class Prometheus:
    """The program, at a port of this machine."""

    def __init__(self, url: str) -> None:
        self.url = url
        #: The time at which expressions are evaluated, in seconds since the epoch.
        self.time = 0.0

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def value(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression. Raises `HTTPError` for one that is refused."""
        found = self.ask("query", query=expression, time=f"{self.time:.3f}")
        result: list[dict[str, Any]] = found["result"]
        return result


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus and a moment at which it had just scraped two nodes, for the third time.

    On a busy machine a scrape may time out at any other, and what it had is then stale.
    """
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("there is no prometheus (Debian's package of that name)")
    directory: Path = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as cleanup:
        nodes = [Node(name) for name in ("Lobby", "World")]
        for node in nodes:
            cleanup.callback(node.close)
        targets = [node.address for node in nodes]
        settings = {
            "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "wingsd", "static_configs": [{"targets": targets}]},
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
        address = f"127.0.0.1:{free_port()}"
        command = [found, f"--config.file={directory}/prometheus.yml", "--log.level=error"]
        command += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
        process = subprocess.Popen(command)
        cleanup.callback(process.wait)
        cleanup.callback(process.terminate)
        program = Prometheus(f"http://{address}")
        scraped = "count(count_over_time(wingsd_build_info[10s]) > 2) == 2 and count(up == 1) == 2"
        while True:
            program.time = time.time() - 1  # all scrapes of that time have ended
            with suppress(OSError):
                if program.value(scraped):
                    break
            assert process.poll() is None, "it has ended"
            time.sleep(0.05)
        yield program


def test_each_query_of_the_dashboard_is_answered_by_both_nodes(prometheus: Prometheus) -> None:
    empty = []
    for query in queries():
        asked = query.replace("[5m]", "[10s]")
        found = prometheus.value(asked)
        series = {name for name, _ in SELECTOR.findall(query) if name.startswith("wingsd_server_")}
        if series and not found and "> 0" not in query:
            empty.append(query)
    assert not empty, "rows of servers without data"
    used = prometheus.value("wingsd_server_memory_bytes")
    assert {each["metric"]["name"] for each in used} == {"Lobby", "World"}


def test_the_rules_are_loaded_and_evaluated(prometheus: Prometheus) -> None:
    (group,) = prometheus.ask("rules")["groups"]
    names = {rule["name"] for rule in group["rules"]}
    assert {"WingsdServerOutOfMemory", "WingsdNodeUnderPressure"} <= names
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
