"""Takes secrets, and the addresses of the node where asked for, out of text for other people.

A value of the configuration is secret by the name of its key, wherever the key is, so that one
that is added later is covered. In other text, secrets are found by their values and by their form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

#: What stands in the place of what is taken out; as in Pelican's Wings.
REDACTED = "{redacted}"

_SECRET = re.compile(r"token|passw|secret|credential|authoriz|cookie|api_?key|private", re.I)
#: Keys that look secret by the above, and are not: the public half of the token, and settings.
_PUBLIC = {
    "allow_cors_private_network",
    "authentication_password_attempts",
    "disable_password_auth",
    "passwd",
    "password_file",
    "token_id",
}
#: Maps whose values are secret whatever their keys are: headers of requests to the Panel.
_SECRET_MAPS = {"remote_headers", "custom_headers", "environment"}
_ENDPOINT = re.compile(
    r"(^|_)(remote|host|address|public_url|cert|key|bind_address|interface|dns|subnet|gateway|"
    r"socket|domainname|system_ips|allowed_origins|trusted_proxies)$"
)
_REGISTRIES = "docker.registries."
#: Values of this length or less are words that text has anyway.
_SHORT = 5

#: What is secret by its form, with what is kept of it.
_FORMS = (
    (re.compile(r"\b(Bearer|Basic)(\s+)[^\s\"',]+", re.I), rf"\1\2{REDACTED}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(\.[\w-]*)?"), REDACTED),
    (re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]*@"), f"{REDACTED}@"),
    (
        re.compile(
            r"\b([\w.-]*(?:token|passw(?:or)?d|secret|signature|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)"
            r"[^\s\"'&,;{}]+",
            re.I,
        ),
        rf"\1{REDACTED}",
    ),
)
_URL_HOST = re.compile(r"(?<=://)(\[[0-9a-f:.]+\]|[^\s/\"'@:?#,;)\]{}]+)(:\d+)?", re.I)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])", re.I)


def settings(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested maps by their dotted paths."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from settings(value, here)
        else:
            yield here, value


class Redaction:
    """Takes out the secrets in `values`, a configuration as nested maps.

    Without `endpoints` also hosts, addresses and paths of certificates.
    """

    def __init__(self, values: Mapping[str, Any], *, endpoints: bool) -> None:
        self._endpoints = endpoints
        found: set[str] = set()
        for path, value in settings(values):
            if self._is_secret(path):
                found |= set(_texts(value))
            elif not endpoints and self._is_endpoint(path):
                found |= {_host(text) for text in _texts(value)}
        # The longest first: one may be a part of another.
        long = sorted((text for text in found if len(text) > _SHORT), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, long))) if long else None

    def value(self, path: str, value: Any) -> Any:
        """Return the value of a key, or what stands in its place; an empty one is shown."""
        hidden = self._is_secret(path) or (not self._endpoints and self._is_endpoint(path))
        return REDACTED if hidden and value not in ("", None, [], (), {}) else value

    def name(self, path: str) -> str:
        """Return the path of a key; the host of a registry is a key."""
        if self._endpoints or not path.startswith(_REGISTRIES):
            return path
        return f"{_REGISTRIES}{REDACTED}.{path.rpartition('.')[2]}"

    def text(self, text: str) -> str:
        """Return `text` without what must not be shown."""
        if self._values is not None:
            text = self._values.sub(REDACTED, text)
        for form, kept in _FORMS:
            text = form.sub(kept, text)
        if not self._endpoints:
            for form in (_URL_HOST, _IPV4, _IPV6):
                text = form.sub(REDACTED, text)
        return text

    def tree(self, values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
        """Return a configuration as nested maps; of a secret, an empty text."""
        shown: dict[str, Any] = {}
        for key, value in values.items():
            here = f"{path}.{key}" if path else str(key)
            if isinstance(value, Mapping):
                shown[key] = self.tree(value, here)
            else:
                shown[key] = "" if self._is_secret(here) else value
        return shown

    @staticmethod
    def _is_secret(path: str) -> bool:
        *above, name = path.split(".")
        if _SECRET_MAPS & set(above):
            return True
        return name not in _PUBLIC and bool(_SECRET.search(name)) and "passwd" not in above

    @staticmethod
    def _is_endpoint(path: str) -> bool:
        return any(_ENDPOINT.search(name) for name in path.split(".")[-1:])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def _host(text: str) -> str:
    """Return the host of a URL; another text as it is."""
    return (urlsplit(text).hostname or text) if "://" in text else text
