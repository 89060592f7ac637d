"""The answers of other nodes: refusals as errors for people, in the words of the node."""

from __future__ import annotations

import json
from http import HTTPStatus
from math import ceil

from wingsd.http_upload.exchange import Answer
from wingsd.transfers.errors import DestinationRefused
from wingsd.util.retry import seconds_asked_for

__all__ = ["GATEWAYS", "MAX_QUOTE", "explanation", "judge", "plain"]

#: Characters that are quoted from an answer.
MAX_QUOTE = 500
#: Statuses of a proxy that has no answer of the node's, which may still be at work. 520 to 524 are
#: Cloudflare's.
GATEWAYS = frozenset({408, 502, 503, 504, *range(520, 525)})


def judge(answer: Answer, *, may_be_early: bool = False) -> None:
    """Raise `DestinationRefused` for an answer that is not one of success."""
    status = f"{answer.code} {plain(answer.reason)}".rstrip()
    if answer.good and answer.early and not may_be_early:
        raise DestinationRefused(
            "the destination node answered before it had received everything",
            f"{status} came while the server was still being sent; see its log, and whether a "
            "proxy in front of it answers in its place",
            answer.code,
        )
    if answer.good:
        return
    if HTTPStatus.MULTIPLE_CHOICES <= answer.code < HTTPStatus.BAD_REQUEST:
        where = plain(answer.header("location")) or "nowhere"
        raise DestinationRefused(
            "the destination node redirects the upload",
            f"{status} points to {where}; give the node its right address in the Panel",
            answer.code,
        )
    error, detail = explanation(answer.body, status)
    # The text is about "this node", and is read in the console of another one.
    says = f"says: {error}" if error else f"answered {status}"
    if answer.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not detail:
        detail = "a proxy in front of it limits how much may be sent; lift that limit"
    wait = ceil(seconds_asked_for(answer.header("retry-after")))
    again = f"try again in {wait} s" if wait else ""
    detail = "; ".join(filter(None, (detail, again)))
    raise DestinationRefused(
        f"the destination node {says}",
        detail,
        answer.code,
        may_complete=not error and answer.code in GATEWAYS,
    )


def explanation(body: bytes, status: str) -> tuple[str, str]:
    """Return `error` and `detail` of a node's answer; of any other, "" and its text.

    Go nodes do not answer with the reason, but with how to find it in their log.
    """
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return "", plain(text)
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), str):
        return "", plain(text)
    detail, request = answer.get("detail"), answer.get("request_id")
    if not detail and isinstance(request, str):
        detail = f"{status}; the reason is in its log, with request_id {request}"
    return plain(answer["error"]), plain(detail) if isinstance(detail, str) else ""


def plain(text: str) -> str:
    """Return the beginning of `text` as one line without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_QUOTE else f"{line[:MAX_QUOTE]}…"
