"""A registry of one image: as much of the OCI distribution API as a pull needs."""

from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64encode
from typing import Any, cast

from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support.reactor import reactor

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _part(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(content), "digest": _digest(content)}


class _Channel(HTTPChannel):
    def dataReceived(self, data: bytes) -> None:
        # The engine tries TLS first. It would wait long for an answer to its greeting.
        if data.startswith(b"\x16"):
            cast("Any", self.transport).abortConnection()
        else:
            super().dataReceived(data)


class Registry(Resource):
    """Serves `tar`, a root file system, under `name` to those who know user and password."""

    isLeaf = True

    def __init__(self, name: str, tar: bytes, user: str, password: str) -> None:
        super().__init__()
        self._expected = b"Basic " + b64encode(f"{user}:{password}".encode())
        layer = gzip.compress(tar)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _part(_CONFIG, config),
                "layers": [_part(_LAYER, layer)],
            }
        ).encode()
        self._content = {
            "/v2/": (b"{}", "application/json"),
            f"/v2/{name}/manifests/latest": (manifest, _MANIFEST),
            f"/v2/{name}/manifests/{_digest(manifest)}": (manifest, _MANIFEST),
            f"/v2/{name}/blobs/{_digest(config)}": (config, "application/octet-stream"),
            f"/v2/{name}/blobs/{_digest(layer)}": (layer, "application/octet-stream"),
        }
        site: Any = Site(self)
        site.protocol = _Channel
        self._port = cast("Any", reactor.listenTCP(0, site, interface="127.0.0.1"))
        self.host = f"127.0.0.1:{self._port.getHost().port}"

    async def stop(self) -> None:
        await self._port.stopListening()

    def render(self, request: Request) -> bytes:
        if request.getHeader(b"Authorization") != self._expected:
            request.setResponseCode(401)
            request.setHeader("WWW-Authenticate", 'Basic realm="test"')
            return b""
        found = self._content.get(request.path.decode())
        if found is None:
            request.setResponseCode(404)
            return b""
        content, kind = found
        request.setHeader("Content-Type", kind)
        request.setHeader("Content-Length", str(len(content)))
        request.setHeader("Docker-Content-Digest", _digest(content))
        return b"" if request.method == b"HEAD" else content
