"""A configuration as a Panel prints it, the least there can be, and what is said of others."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from wingsd.config import Config, parse
from wingsd.errors import ConfigError

SECRET = "s3cr3t-t0k3n-of-this-n0d3"
LEAST: dict[str, Any] = {"token_id": "id", "token": SECRET, "remote": "https://panel.example.com"}

# What a Panel prints, keys that wingsd does not use among them.
PRINTED = """\
debug: false
uuid: 6c1d1a3c-8f5e-4f3b-9a55-3f0f8a7c2b41
token_id: Ab12Cd34Ef56Gh78
token: s3cr3t-t0k3n-of-this-n0d3
api:
  host: 0.0.0.0
  port: 8443
  ssl:
    enabled: true
    cert: /etc/letsencrypt/live/node.example.com/fullchain.pem
    key: /etc/letsencrypt/live/node.example.com/privkey.pem
  upload_limit: 100
  trusted_proxies: []
system:
  data: /srv/volumes
  sftp:
    bind_port: 2022
allowed_mounts: []
remote: 'https://panel.example.com'
"""


def config(**keys: Any) -> Config:
    return parse(yaml.safe_dump(LEAST | keys), "here")[0]


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "here")
    assert SECRET not in str(caught.value)
    return str(caught.value)


def faults(**keys: Any) -> list[str]:
    first, *rest = fault(yaml.safe_dump(LEAST | keys)).splitlines()
    assert first == "here cannot be used:"
    return rest
