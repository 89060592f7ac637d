"""The listening socket of a site: its endpoint, TLS, and closing."""

from __future__ import annotations

import errno
from typing import Any

from OpenSSL import crypto
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from wingsd.config import Ssl
from wingsd.http.site import NodeSite
from wingsd.util.net import ServerCertificate, keep_alive, limit_accepts
from wingsd.util.reactor import Reactor
from wingsd.util.tls_records import tls_factory

#: Length of the accept queue. Twisted's default is 50.
BACKLOG = 1024


class HttpListener:
    """Listens for a site at `endpoint`, a Twisted description such as `tcp:8080`."""

    def __init__(self, ssl: Ssl, endpoint: str, site: NodeSite, reactor: Reactor) -> None:
        """Raise `ConfigError` when the certificate cannot be used."""
        self._endpoint = endpoint
        self.site = site
        self._reactor = reactor
        self._certificate = None
        # An `ssl:` endpoint has TLS of its own.
        if ssl.enabled and not endpoint.startswith("ssl:"):
            self._certificate = ServerCertificate(ssl.cert, ssl.key)
        self._port: IListeningPort | None = None

    def open(self) -> None:
        """Listen. Raises `SystemExit` with one line when that fails."""
        factory: Any = self.site
        if self._certificate is not None:
            factory = tls_factory(self._certificate, self.site, self.site.input)
        failures: list[Failure] = []
        try:
            endpoint = serverFromString(self._reactor, self._endpoint)
        except LookupError as error:
            raise SystemExit(
                f"wingsd: systemd has passed no socket {self._endpoint!r}: start wingsd by its "
                "socket unit, or leave out --endpoint"
            ) from error
        except (ValueError, TypeError, OSError, crypto.Error) as error:
            raise SystemExit(
                f"wingsd: {self._endpoint!r} is not a usable endpoint ({error}); "
                "examples: tcp:8080, systemd:domain=INET:index=0"
            ) from error
        endpoint.listen(factory).addCallback(self._listening).addErrback(failures.append)
        for failure in failures:
            reason = failure.getErrorMessage() + _advice(failure)
            raise SystemExit(f"wingsd: cannot listen on {self._endpoint}: {reason}")

    def _listening(self, port: Any) -> None:
        limit_accepts(port, self._reactor)
        keep_alive(port.socket)
        # Listen again with a longer queue: a connection that does not fit waits for seconds.
        port.socket.listen(BACKLOG)
        self._port = port

    @property
    def address(self) -> str:
        """The URL of the listening socket."""
        where = "" if self._port is None else _netloc(self._port.getHost())
        return f"{'http' if self._certificate is None else 'https'}://{where}"

    def reload(self, ssl: Ssl) -> bool:
        """Read the certificate again, from the files of `ssl`; return whether TLS is used.

        Raises `ConfigError`; the old certificate then stays in use.
        """
        if self._certificate is not None:
            self._certificate.reload(ssl.cert, ssl.key)
        return self._certificate is not None

    async def close(self) -> None:
        """Stop listening."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)


def _advice(failure: Failure) -> str:
    cause = getattr(failure.value, "socketError", None)
    if getattr(cause, "errno", None) != errno.EADDRINUSE:
        return ""
    return (
        " Another program has the port: if it is Wings, which must not run beside wingsd, end it "
        "(systemctl disable --now wings); `ss -ltnp` shows which it is."
    )


def tcp_endpoint(host: str, port: int) -> str:
    """Return the endpoint description of an IPv4 or IPv6 address."""
    kind = "tcp6" if ":" in host else "tcp"
    return f"{kind}:{port}:interface={quoteStringArgument(host)}"


def _netloc(address: Any) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
