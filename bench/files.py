"""Files of a server: large ones that are downloaded, beside nginx, and directories listed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.rows import TABLE, Row
from bench.targets import DOWNLOAD, GROWTH, LISTINGS
from tests.support.signed_urls import signed_url_token

__all__ = ["FilesResult", "files_report", "measure_files"]

MIB = 1 << 20
#: Bytes of the file that is downloaded.
SIZE = 1024 * MIB
#: The cipher suite of both servers.
_SUITE = "TLS_AES_128_GCM_SHA256"
#: Entries of the directories that are listed, and how often each is in a round.
ENTRIES = tuple(LISTINGS)
_LISTS = 3

_NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""


@frozen
class Download:
    """Downloads from the node and one from nginx: seconds, and the node's CPU and MiB.

    `signed` is by a signed URL, the others of the node by `contents`. `growth` is how much more
    memory than before the node had at its peak.
    """

    node: float
    signed: float
    nginx: float
    cpu: float
    growth: float


@frozen
class FilesResult:
    """Downloads, and the seconds of listings by the number of entries."""

    downloads: list[Download] = attrs.field(factory=list)
    listings: dict[int, list[float]] = attrs.field(factory=dict)
    #: How much more memory than before the node had after the listings, in MiB.
    listing_growth: list[float] = attrs.field(factory=list)


async def measure_files(directory: Path, rounds: int, result: FilesResult) -> None:
    """Download and list as often as there are rounds, from a node and nginx in `directory`."""
    site = Site(directory)
    await site.open()
    node = BenchNode(site, directory / "node")
    server = site.add_server(1, node.node)
    key = node.node.token
    await node.run()
    home = node.volumes / server
    home.mkdir(parents=True, exist_ok=True)
    base = f"{node.url}/api/servers/{server}/files"
    curl = _Curl(site.ca, key)

    def signed() -> str:
        token = signed_url_token(key, server, "file-download", file_path="big")
        return f"{node.url}/download/file?token={token}"

    try:
        await deferToThread(_make_files, home)
        with _nginx(directory, home, site.pem) as address:
            for number in range(rounds):
                urls = _Urls(base, signed(), f"{address}/big")
                await deferToThread(_round, curl, urls, node.pid, result, reverse=bool(number % 2))
    finally:
        await node.close()
        await site.close()


@frozen
class _Urls:
    """The calls for files of the node, its signed URL of the file, and that of nginx."""

    base: str
    signed: str
    nginx: str


def _round(curl: _Curl, urls: _Urls, pid: int, result: FilesResult, *, reverse: bool) -> None:
    meter = Meter(pid)
    before = meter.resident()
    others = [curl.seconds(urls.nginx)] if reverse else []
    meter.begin()
    seconds = curl.seconds(f"{urls.base}/contents?file=big")
    cost = meter.end()
    others += [] if reverse else [curl.seconds(urls.nginx)]
    signed = curl.seconds(urls.signed)
    peak = max((memory for _, memory in cost.memory), default=before)
    growth = max(0.0, peak - before)
    result.downloads.append(Download(seconds, signed, others[0], cost.cpu, growth))
    for count in ENTRIES:
        times = result.listings.setdefault(count, [])
        times += [
            curl.seconds(f"{urls.base}/list-directory?directory={count}") for _ in range(_LISTS)
        ]
    result.listing_growth.append(max(0.0, meter.resident() - before))


@frozen
class _Curl:
    """curl, with the authority of the certificates and the node's token."""

    ca: Path
    token: str

    def seconds(self, url: str) -> float:
        """Return the seconds of one request."""
        command = ["curl", "-sS", "--fail", "--cacert", str(self.ca), "--tls13-ciphers", _SUITE]
        command += ["-H", f"Authorization: Bearer {self.token}", "-o", "/dev/null"]
        command += ["-w", "%{time_total}", url]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _make_files(home: Path) -> None:
    with (home / "big").open("wb") as file:
        for _ in range(SIZE // MIB):
            file.write(os.urandom(MIB))
    for count in ENTRIES:
        (home / str(count)).mkdir()
        for number in range(count):
            (home / str(count) / f"player-{number}.yml").write_text("level: 1\n")
    os.sync()


@contextmanager
def _nginx(directory: Path, root: Path, pem: Path) -> Iterator[str]:
    """Run nginx with the node's certificate; yield its address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("bench: there is no nginx; tools/prepare bench installs it")
    port = 18443
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, port=port, pem=pem, root=root))
    command = [program, "-p", str(directory), "-c", str(configuration)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not (directory / "nginx.pid").exists():
                if process.poll() is not None:
                    raise SystemExit(f"bench: nginx has ended: see {directory}/nginx.log")
                time.sleep(0.01)
            yield f"https://127.0.0.1:{port}"
        finally:
            process.terminate()


def files_report(result: FilesResult, machine: str, version: str) -> str:
    """Return the document."""
    ratios = [one.nginx / one.node for one in result.downloads]
    rows = [
        ("1 GiB, speed against nginx", DOWNLOAD, ratios),
        (
            "1 GiB by a signed URL, speed against nginx",
            DOWNLOAD,
            [one.nginx / one.signed for one in result.downloads],
        ),
        ("1 GiB, seconds", None, [one.node for one in result.downloads]),
        ("1 GiB, seconds of nginx", None, [one.nginx for one in result.downloads]),
        ("1 GiB, CPU seconds of the node", None, [one.cpu for one in result.downloads]),
        ("1 GiB, MiB more memory", GROWTH, [one.growth for one in result.downloads]),
        *(
            (f"{count:,} entries listed, seconds", LISTINGS[count], times)
            for count, times in result.listings.items()
        ),
        ("MiB more memory after the listings", None, result.listing_growth),
    ]
    return "\n".join(
        [
            "# Files of a server",
            "",
            "Written by `make bench SERIES=files`, not to be edited.",
            "",
            "A file of 1 GiB, which is in the page cache, is downloaded by curl over TLS 1.3 with",
            f"{_SUITE}: from the node by `contents` and by a signed URL, and from nginx of",
            "Debian with one worker and the same certificate, in turns. Directories are listed by",
            "`list-directory`, into curl. Client and servers share the machine. Medians, with the",
            "lowest and the highest in brackets.",
            "",
            f"Machine: {machine}. Version: {version}.",
            "",
            *TABLE,
            *(
                Row(name, values, target, is_speed=target is DOWNLOAD).text()
                for name, target, values in rows
                if values
            ),
            "",
        ]
    )
