"""Files of a server: large ones that are downloaded, beside nginx, and directories listed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
from attrs import frozen
from twisted.internet.threads import deferToThread

from bench.figures import Bound, Column, Figure, Measured, Row, Table, listed
from bench.meter import Meter
from bench.node import BenchNode, Site
from bench.series import Run, Series
from tests.support.tokens import signed_url_token

__all__ = ["FILES"]

#: The speed of a download, against nginx; and MiB more memory meanwhile.
_SPEED = Bound(0.8, is_least=True)
_GROWTH = Bound(16)
#: Seconds to list a directory, by its entries.
_LISTINGS = {10_000: Bound(0.3), 100_000: Bound(3)}

MIB = 1 << 20
#: Bytes of the file that is downloaded.
SIZE = 1024 * MIB
#: The cipher suite of both servers.
_SUITE = "TLS_AES_128_GCM_SHA256"
#: How often each directory is listed in a round.
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
class _Download:
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
class _Listings:
    """Seconds of listings by the number of entries, and MiB more memory than before after them."""

    seconds: dict[int, list[float]] = attrs.field(factory=lambda: {one: [] for one in _LISTINGS})
    growth: list[float] = attrs.field(factory=list)


async def _measure(run: Run) -> Measured:
    with TemporaryDirectory() as directory:
        downloads, listings = await _rounds(Path(directory), run.rounds)
    for one in downloads:
        run.say(f"1 GiB: {one.node:.2f} s, {one.nginx / one.node:.2f} of nginx's speed")
    return Measured(tables=[Table(_rows(downloads, listings))], rounds=str(run.rounds))


async def _rounds(directory: Path, rounds: int) -> tuple[list[_Download], _Listings]:
    """Download and list as often, from a node and nginx in `directory`."""
    downloads, listings = [], _Listings()
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
                reverse = bool(number % 2)
                downloads.append(
                    await deferToThread(_round, curl, urls, node.pid, listings, reverse=reverse)
                )
    finally:
        await node.close()
        await site.close()
    return downloads, listings


@frozen
class _Urls:
    """The calls for files of the node, its signed URL of the file, and that of nginx."""

    base: str
    signed: str
    nginx: str


def _round(curl: _Curl, urls: _Urls, pid: int, listings: _Listings, *, reverse: bool) -> _Download:
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
    for count, times in listings.seconds.items():
        times += [
            curl.seconds(f"{urls.base}/list-directory?directory={count}") for _ in range(_LISTS)
        ]
    listings.growth.append(max(0.0, meter.resident() - before))
    return _Download(seconds, signed, others[0], cost.cpu, growth)


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
    for count in _LISTINGS:
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


def _rows(downloads: Sequence[_Download], listings: _Listings) -> list[Row]:
    return [
        *listed(
            downloads,
            Column("1 GiB, speed against nginx", lambda one: one.nginx / one.node, _SPEED),
            Column(
                "1 GiB by a signed URL, speed against nginx",
                lambda one: one.nginx / one.signed,
                _SPEED,
            ),
            Column("1 GiB, seconds", lambda one: one.node),
            Column("1 GiB, seconds of nginx", lambda one: one.nginx),
            Column("1 GiB, CPU seconds", lambda one: one.cpu),
            Column("1 GiB, MiB more memory", lambda one: one.growth, _GROWTH),
        ),
        *(
            Row(f"{count:,} entries listed, seconds", [Figure.of(times, _LISTINGS[count])])
            for count, times in listings.seconds.items()
        ),
        Row("MiB more memory after the listings", [Figure.of(listings.growth)]),
    ]


FILES = Series(
    "files",
    "Files of a server",
    f"""
    A node downloads a large file as fast as nginx. curl gets a file of 1 GiB, which is in the page
    cache, over TLS 1.3 with {_SUITE}: from the node by `contents` and by a signed URL, and from
    Debian's nginx with one worker and the same certificate, in turns. Directories are listed by
    `list-directory`, into curl.
    """,
    _measure,
)
