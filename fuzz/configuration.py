"""The node's configuration file: it is used, or the error names the place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from fuzz.findings import Finding
from wingsd.config import Config, parse
from wingsd.errors import ConfigError

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    *(field.name.encode() + b": " for field in attrs.fields(Config)),
    b"!!binary ",
    b"!!int ",
    b"!!float ",
    b"!!timestamp ",
    b"!!bool ",
    b"!!set ",
    b"!!omap ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"? ",
    b"2001-01-01",
    b"0x",
    b"0b",
    b"1:1",
    b".inf",
    b"~",
    b"---\n",
    b"%YAML 1.1\n",
]

_EXAMPLE = Path(__file__).parent.parent / "etc" / "wingsd.example.yml"
_LEAST = b"token_id: i\ntoken: t\nremote: http://p\n"


def one(data: bytes) -> None:
    """Read `data` as the file."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        config, unknown = parse(text, "config.yml")
    except ConfigError as error:
        if not str(error).startswith("config.yml "):
            raise Finding(f"this does not tell where: {error}") from error
        return
    if not (config.token and config.token_id and 0 < config.api.port < 1 << 16):
        raise Finding(f"this was taken: {config}")
    if not all(isinstance(key, str) for key in unknown):
        raise Finding(f"these are no keys: {unknown}")


def seeds() -> Iterator[bytes]:
    """Yield the example, and small files with YAML's features."""
    yield _EXAMPLE.read_bytes()
    yield _LEAST
    yield _LEAST + b"api: {host: 127.0.0.1, port: 8080, ssl: {enabled: true, cert: /c, key: /k}}\n"
    yield _LEAST + b"system: {data: /d, user: {uid: 1}, transfers: {stall_timeout: 5}}\n"
    yield _LEAST + b"docker: {registries: {r: {username: u}}, overhead: {multipliers: {1: 1.5}}}\n"
    yield _LEAST + b"allowed_mounts: [/a, &b /b, *b]\nallowed_origins: []\nother: !!set {? a}\n"
