"""A node's configuration from its Panel: fetched with an application token, or pasted."""

from __future__ import annotations

import base64
import json
import ssl
from concurrent.futures import Future
from http import HTTPStatus
from http.client import HTTPException
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from wingsd import __version__
from wingsd.cli.client import CtlError
from wingsd.config import CALAGOPUS, PELICAN, PTERODACTYL
from wingsd.config.loader import read_yaml
from wingsd.errors import InvalidData

__all__ = ["fetch", "from_join_data"]

#: Seconds for the Panel to answer, as Wings gives it.
TIMEOUT = 30.0
#: Seconds for the whole answer.
TOTAL_TIMEOUT = 90.0
#: Bytes of its answer at most.
MAX_ANSWER = 1024 * 1024

Json = dict[str, Any]


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: it could lead the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request; the answer is then an `HTTPError`."""


#: By its first letters, the family whose Panel has made a token: an application's or a user's.
#: Sources: `getPrefixForType` of their ApiKey.
_TOKENS = {"papp_": PELICAN, "pacc_": PELICAN, "ptla_": PTERODACTYL, "ptlc_": PTERODACTYL}


def fetch(panel: str, token: str, node: str, *, allow_insecure: bool = False) -> Json:
    """Return the configuration of a node, by its number, from the Panel at the URL `panel`.

    It has the Panel's family, if that is known.

    `token` is one for the Panel's application API; `allow_insecure` accepts any certificate.
    Raises `CtlError`.
    """
    about = f"{panel.rstrip('/')}/api/application/nodes/{node}"
    url = f"{about}/configuration"
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.pterodactyl.v1+json",
        "Content-Type": "application/json",
        "User-Agent": f"wingsd/{__version__}",
    }
    context = ssl.create_default_context()
    if allow_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = build_opener(_NoRedirects, HTTPSHandler(context=context))
    done: Future[Json] = Future()

    def ask() -> None:
        try:
            request = Request(url, headers=headers)  # noqa: S310
            with opener.open(request, timeout=TIMEOUT) as answer:
                found = _configuration(answer, url)
            family = _TOKENS.get(token[:5], "")
            if family != PELICAN:
                # A Panel of Pelican's that was one of Pterodactyl's has its tokens still.
                request = Request(about, headers=headers)  # noqa: S310
                family = _family_of_node(opener, request) or family
            done.set_result({**found, "family": family} if family else found)
        except BaseException as error:
            done.set_exception(error)

    # A timeout of a socket is for each read, and a drop now and then would be enough.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TOTAL_TIMEOUT)
    if not done.done():
        raise _no_connection(f"its answer takes longer than {TOTAL_TIMEOUT:g} s", panel)
    try:
        return done.result()
    except HTTPError as error:
        with error:
            raise _refusal(error, url, node) from error
    except URLError as error:
        raise _no_connection(error.reason, panel) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _no_connection(error, panel) from error


def _family_of_node(opener: OpenerDirector, request: Request) -> str:
    """Return the family of the Panel that describes a node so; empty if it is not known.

    Source: the nodes' tables; only Pterodactyl's have a location, and only Pelican's tags.
    """
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            node = json.loads(answer.read(MAX_ANSWER))["attributes"]
            return PTERODACTYL if "location_id" in node else PELICAN if "tags" in node else ""
    except (OSError, HTTPException, ValueError, RecursionError, KeyError, TypeError):
        return ""


def _configuration(answer: IO[bytes], url: str) -> Json:
    body = answer.read(MAX_ANSWER + 1)
    advice = "see whether --panel-url is the Panel's own address"
    if len(body) > MAX_ANSWER:
        raise CtlError(f"the answer of {url} is larger than a configuration", advice)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CtlError(f"the answer of {url} is not JSON", advice) from error
    if not isinstance(found, dict):
        raise CtlError(f"the answer of {url} is not a configuration", advice)
    return found


def _refusal(error: HTTPError, url: str, node: str) -> CtlError:
    match error.code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return CtlError(
                f"the Panel does not accept the token ({error.code})",
                "generate another on the node's Configuration tab; of an application API key it "
                "needs the permission to read nodes",
            )
        case HTTPStatus.NOT_FOUND:
            return CtlError(
                f"the Panel has no node {node} (404)",
                "the number is in the address of the node's page; or --panel-url is not the "
                "Panel's own address",
            )
        case code if code in range(300, 400):
            where = error.headers.get("Location", "elsewhere")
            return CtlError(f"{url} leads to {where}", "give that address as --panel-url")
        case code:
            return CtlError(f"the Panel answered {code}", "see the Panel's own log")


def _no_connection(reason: object, panel: str) -> CtlError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return CtlError(
            f"the certificate of {panel} is not valid: {reason.verify_message}",
            "correct it; for one that no authority has signed, --allow-insecure accepts any",
        )
    return CtlError(
        f"the Panel at {panel} does not answer: {reason}",
        "see whether --panel-url is right, and whether this machine can reach it",
    )


def from_join_data(text: str) -> Json:
    """Return the configuration that Calagopus' Panel prints: YAML in base64. Raises `CtlError`."""
    advice = "copy the whole command from the node's page again"
    try:
        found = read_yaml(base64.b64decode(text, validate=True).decode())
    except (ValueError, InvalidData) as error:  # of base64, of the encoding, or of YAML
        raise CtlError("the join data is damaged", advice) from error
    if not isinstance(found, dict):
        raise CtlError("the join data is not a configuration", advice)
    # Nothing else in it says whose it is.
    return {**found, "family": CALAGOPUS}
