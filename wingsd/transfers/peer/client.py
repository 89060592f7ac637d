"""A client of another node: its address, requests and uploads to it, and errors of its answers.

Each request is one `HttpExchange`; each way it can fail is a class in `wingsd.errors`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from functools import lru_cache, partial
from http import HTTPStatus
from math import ceil
from typing import Any, NoReturn

import h11
from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.python.failure import Failure

from wingsd.errors import (
    ConfigError,
    DestinationDisconnected,
    DestinationRefused,
    DestinationUnreachable,
    InvalidDestination,
)
from wingsd.http_client.exchange import (
    EXPIRED,
    MAX_HEAD,
    MAX_QUOTE,
    NOT_YET_VALID,
    OTHER_NAME,
    UNTRUSTED,
    Answer,
    CertificateRefused,
    HttpExchange,
    HttpServer,
    plain,
    reason_of,
    system_trust,
    tls_reason,
)
from wingsd.threadio import Outflow
from wingsd.util.reactor import Reactor
from wingsd.util.retry import seconds_asked_for

#: Where the addresses of nodes are given, as a rule.
_PANEL = "in the Panel"
#: Names of a certificate in an error.
MAX_NAMES = 5
#: Statuses of a proxy that has no answer of the node's, which may still be at work. 520 to 524 are
#: Cloudflare's.
GATEWAYS = frozenset({408, 502, 503, 504, *range(520, 525)})


def judge(answer: Answer, *, may_be_early: bool = False) -> None:
    """Raise `DestinationRefused` for an answer that is not one of success."""
    if not answer.good:
        raise refusal_of(answer)
    if answer.early and not may_be_early:
        raise DestinationRefused(
            "the destination node answered before it had received everything",
            f"{_status(answer)} came while the server was still being sent; see its log, and "
            "whether a proxy in front of it answers in its place",
            answer.code,
        )


def refusal_of(answer: Answer) -> DestinationRefused:
    """Return the error of an answer that is not one of success."""
    status = _status(answer)
    if HTTPStatus.MULTIPLE_CHOICES <= answer.code < HTTPStatus.BAD_REQUEST:
        where = plain(answer.header("location")) or "nowhere"
        return DestinationRefused(
            "the destination node redirects the upload",
            f"{status} points to {where}; give the node its right address in the Panel",
            answer.code,
        )
    error, detail = _explanation(answer, status)
    # The text is about "this node", and is read in the console of another one.
    says = f"says: {error}" if error else f"answered {status}"
    if answer.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not detail:
        detail = "a proxy in front of it limits how much may be sent; lift that limit"
    wait = ceil(seconds_asked_for(answer.header("retry-after")))
    again = f"try again in {wait} s" if wait else ""
    detail = "; ".join(filter(None, (detail, again)))
    refused = DestinationRefused(
        f"the destination node {says}",
        detail,
        answer.code,
        may_complete=not error and answer.code in GATEWAYS,
    )
    refused.answer_code = answer_code(answer)
    return refused


def answer_code(answer: Answer) -> str:
    """Return the code of an answer, empty where it has none."""
    code = answer.fields.get("code")
    return code if isinstance(code, str) else ""


def _status(answer: Answer) -> str:
    return f"{answer.code} {plain(answer.reason)}".rstrip()


def _explanation(answer: Answer, status: str) -> tuple[str, str]:
    """Return `error` and `detail` of a node's answer; of any other, "" and its text.

    Go nodes do not answer with the reason, but with how to find it in their log.
    """
    found = answer.fields
    error, detail, request = found.get("error"), found.get("detail"), found.get("request_id")
    if not isinstance(error, str):
        return "", plain(answer.body.decode("utf-8", "replace"))
    if not detail and isinstance(request, str):
        detail = f"{status}; the reason is in its log, with request_id {request}"
    return plain(error), plain(detail) if isinstance(detail, str) else ""


#: What to do when there is no connection.
HINTS: tuple[tuple[type[Exception], str], ...] = (
    (DNSLookupError, "the name {host} is not known; correct it {there}, or this node's DNS"),
    (Refused, "nothing listens at {address}; start that node, or correct its port {there}"),
    (TimedOut, "{address} is silent; let this node through the firewall in front of it"),
    (ConnectError, "there is no way to {address} ({error}); see this node's network"),
    (ConnectionDone, "{address} closed the connection before anything could be sent"),
    (ConnectionLost, "{address} closed the connection before anything could be sent"),
)


def _context(ca_file: str) -> SSL.Context:
    """Return an OpenSSL context for connections of TLS 1.2 and above, by AEAD suites alone.

    The trusted certificate authorities are the system's (of `SSL_CERT_FILE` and `SSL_CERT_DIR`,
    where they are set) and, if it is not empty, those in `ca_file`, `system.transfers.ca_file`:
    PEM. They are read again where one of these places has changed. Raises
    `DestinationUnreachable` when `ca_file` cannot be used.
    """
    system = ssl.get_default_verify_paths()
    places = [each for each in (ca_file, system.cafile, system.capath) if each]
    return _made_context(ca_file, tuple(map(_version, places)))


def _version(path: str) -> tuple[object, ...]:
    """Return a value that changes when a file is replaced, or a directory gets other names."""
    try:
        found = os.stat(path)
    except OSError:
        return (path,)
    return path, found.st_ino, found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)  # each has a MiB, and takes 10 ms: many moves share one
def _made_context(ca_file: str, _: tuple[object, ...]) -> SSL.Context:
    context = system_trust()
    if ca_file:
        _trust(context, ca_file)
    return context


def _trust(context: SSL.Context, ca_file: str) -> None:
    """Raise `DestinationUnreachable` when `ca_file` cannot be used."""
    try:
        with open(ca_file, "rb"):  # OpenSSL does not say why it cannot
            context.load_verify_locations(ca_file)
    except (OSError, SSL.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        why = reason or "it holds no certificate in PEM form"
        raise DestinationUnreachable(
            "the destination node's certificate cannot be verified",
            f"system.transfers.ca_file: {ca_file} cannot be used: {why}",
        ) from error


def check_ca_file(ca_file: str) -> None:
    """Raise `ConfigError` when `ca_file` cannot be used.

    So that is known when the node starts, and not with its first transfer.
    """
    if ca_file:
        try:
            # Without the system's authorities, which take 10 ms to read.
            _trust(SSL.Context(SSL.TLS_METHOD), ca_file)
        except DestinationUnreachable as error:
            raise ConfigError(error.detail) from error


class PeerAddress(HttpServer):
    """The node at `url`. `source` is where the address was given, and can be corrected.

    `ca_file` has further certificate authorities, if it is not empty.
    """

    def __init__(self, url: str, reactor: Reactor, ca_file: str, source: str = _PANEL) -> None:
        """Raise `BadRequest` for an invalid URL.

        Raises `DestinationUnreachable` when the certificates to trust cannot be read.
        """
        try:
            super().__init__(url, reactor, partial(_context, ca_file))
        except ValueError as error:
            raise InvalidDestination(
                "the destination's URL is invalid", f"{url[:MAX_QUOTE]!r}: {error}"
            ) from error
        self._source = source

    def send(self, request: h11.Request, **options: Any) -> HttpExchange:
        """Begin to send a request; see `HttpServer.send`.

        Requests of moves are sent on `connections`. Without an answer there is an error of
        `DestinationUnreachable`, `DestinationDisconnected`, or `CancelledError` after an abort.
        """
        exchange = super().send(request, **options)
        is_upload, is_of_move = options.get("body") is not None, "connections" in options
        is_question = self._context is None and not is_of_move and not is_upload

        def explain(failure: Failure) -> NoReturn:
            error = failure.value
            if isinstance(error, CancelledError):
                raise error
            if isinstance(error, CertificateRefused):
                raise DestinationUnreachable(
                    "the destination node's certificate is invalid",
                    _certificate_fault(error, self.host),
                ) from error
            if exchange.begun:
                reason = _ending(error)
                if is_question:
                    reason += "; if it serves TLS, its address begins with https://"
                sent = is_upload and not is_of_move and exchange.request_sent
                raise DestinationDisconnected(reason, body_sent=sent) from error
            raise DestinationUnreachable(
                "the destination node cannot be reached",
                _why_unreachable(error, self.host, self.netloc, self._source),
            ) from error

        exchange.answer.addErrback(explain)
        return exchange


def _ending(error: object) -> str:
    match error:
        case ConnectionDone():
            return "it closed the connection"
        case ConnectionLost():
            return "the connection to it broke"
        case TimedOut():
            return str(error.args[0])
        case h11.RemoteProtocolError(error_status_hint=431):
            return f"the headers of its answer are longer than {MAX_HEAD // 1024} KiB"
        case h11.RemoteProtocolError():
            return f"what it said is not HTTP ({error})"
    return reason_of(error)


def _why_unreachable(error: object, host: str, address: str, source: str) -> str:
    if isinstance(error, SSL.Error):
        return (
            f"there is no TLS at {address} that this node can speak ({tls_reason(error)}); "
            "see whether that is the node's port, and whether it serves HTTPS there"
        )
    for kind, hint in HINTS:
        if isinstance(error, kind):
            return hint.format(host=host, address=address, error=error, there=source)
    return f"{address}: {reason_of(error)}"


def _certificate_fault(error: CertificateRefused, host: str) -> str:
    """Return what is wrong with a certificate, and what to do."""
    code, certificate = error.code, error.certificate
    if code == OTHER_NAME:
        names = ", ".join(_names(certificate)) or "no name at all"
        return (
            f"it is for {names}, and the Panel calls that node {host}; install a "
            f"certificate for that name, or correct the node's address in the Panel"
        )
    if code == EXPIRED:
        end = certificate.not_valid_after_utc
        return f"it expired on {end:%Y-%m-%d at %H:%M} UTC; renew it on {host}"
    if code == NOT_YET_VALID:
        begin = certificate.not_valid_before_utc
        return (
            f"it is not valid before {begin:%Y-%m-%d, %H:%M} UTC, which this node's clock has not "
            "reached; set the clocks of both nodes"
        )
    if code in UNTRUSTED:
        return (
            f"{host} shows one issued by {_common_name(certificate.issuer)}, which this node does "
            "not trust; for a private authority, let system.transfers.ca_file in this node's "
            "configuration name a file with its certificate, else use one of a public authority"
        )
    return f"OpenSSL refuses that of {host} (verification error {code}); get a new one there"


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return f'"{found[0].value!s}"' if found else f'"{name.rfc4514_string()}"'


def _names(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that the certificate is for, the first of them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    names = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [*names, *map(str, addresses)][:MAX_NAMES]


class PeerClient(PeerAddress):
    """A client of that node, with the whole value of the header `Authorization`."""

    def __init__(
        self, url: str, authorization: str, reactor: Reactor, ca_file: str, source: str = _PANEL
    ) -> None:
        """Raise `BadRequest` for an invalid URL or header; also as `PeerAddress`."""
        super().__init__(url, reactor, ca_file, source)
        self._headers = [("Authorization", authorization), ("Connection", "close")]
        try:
            self._request("OPTIONS")
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise InvalidDestination(
                "the destination's URL or token has invalid characters", "start the transfer again"
            ) from error

    async def features(self, headers: Iterable[tuple[str, str]] = ()) -> frozenset[str]:
        """Return the features of the node, by which it keeps more of a server than others.

        wingsd answers OPTIONS with them, in the header `Transfer-Features`, a comma list, and in
        the body, which every proxy passes on; other nodes give some other answer, and no
        features. `headers` are those of the request.
        Raises `DestinationUnreachable`, `DestinationDisconnected` without an answer, and
        `DestinationRefused` for that of a proxy which has none of the node's: it may have any.
        """
        answer: Answer = await self.send(self._request("OPTIONS", headers)).answer
        if answer.code in (*GATEWAYS, HTTPStatus.TOO_MANY_REQUESTS):
            judge(answer)
        if not answer.good:
            return frozenset()
        features = answer.header("transfer-features").split(",")
        if isinstance(listed := answer.fields.get("features"), list):
            features += [each for each in listed if isinstance(each, str)]
        return frozenset(each.strip().lower() for each in features if each.strip())

    async def ask(self, method: str, content: bytes = b"") -> Answer:
        """Return the answer of success to a request with the JSON `content`.

        Raises `DestinationUnreachable`, `DestinationDisconnected`, and `DestinationRefused` for
        any other.
        """
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = self._request(method, headers)
        answer: Answer = await self.send(request, content=content).answer
        judge(answer)
        return answer

    def upload(
        self,
        content_type: str,
        body: Outflow,
        stall_timeout: float,
        headers: Iterable[tuple[str, str]] = (),
        *,
        may_be_early: bool = False,
    ) -> HttpExchange:
        """Begin to send `body`, which is closed if the upload ends before it does.

        The node may leave data unacknowledged for `stall_timeout` seconds. `headers` are further
        ones of the request.

        The answer comes when the node has accepted the upload: a 2xx after the whole body was
        sent, or with `may_be_early` at any time. It fails with `DestinationUnreachable`,
        `DestinationRefused` (any other answer, whenever it comes), `DestinationDisconnected`
        (none), and with `CancelledError` after an abort.
        """
        usual = [("Content-Type", content_type), ("Transfer-Encoding", "chunked")]
        request = self._request("POST", [*usual, *headers])
        exchange = self.send(request, body=body, stall_timeout=stall_timeout)
        exchange.answer.addCallback(judge, may_be_early=may_be_early)
        return exchange

    def _request(self, method: str, headers: Iterable[tuple[str, str]] = ()) -> h11.Request:
        return self.request(method, [*self._headers, *headers])
