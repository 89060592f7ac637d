"""The link to a backup in S3, from the Panel's own call.

With Pelican it is requested by the rules for addresses that users give, as its nodes do; nodes of
the other families request whatever the Panel signs. What it redirects to is judged in any case.

What the answer to the request is refused with is Wings'. The archive is read while it is
downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from wingsd.errors import (
    AddressBlocked,
    BackupLinkRefused,
    DownloadFailed,
    TooManyRedirects,
    UrlInvalid,
    UrlSchemeRefused,
    WingsdError,
)
from wingsd.http_client.download import FetchLimits, GuardedAnswer, GuardedClient
from wingsd.threadio import Feed
from wingsd.util.text import escaped

_ACCEPTED = ("application/x-gzip", "application/gzip")
#: Seconds: a Panel waits 15 for the answer to its request, and signs a link for 5 minutes. The
#: whole may take as long as it does, as long as some of it comes.
_LIMITS = FetchLimits(connect=5, answer=10, idle=120, total=48 * 3600)
_ALLOWLIST = "system.backups.restore_host_allowlist"
_TYPE = re.compile(r"[\x20-\x7e]{0,200}")


class DownloadedArchive:
    """A backup that is downloaded while it is read; its bytes wait in a bounded buffer."""

    kind = "S3 backup"
    sha256 = ""

    def __init__(self, answer: GuardedAnswer, reactor: IReactorFromThreads) -> None:
        self.size = answer.length or 0
        self._answer = answer
        self._reactor = reactor
        self._feed = Feed(reactor)
        self._delivery: Deferred[None] | None = None

    def begin(self) -> None:
        """Begin to download it."""
        self._delivery = Deferred.fromCoroutine(self._deliver())

    async def _deliver(self) -> None:
        try:
            await self._answer.deliver(self._feed)
        except WingsdError as error:
            self._feed.fail(error)
        except CancelledError:
            self._feed.fail(DownloadFailed("the download was ended"))
        except Exception as error:
            self._feed.fail(DownloadFailed(f"its connection failed: {error}"))
        else:
            self._feed.finish()

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes as they arrive. Raises `DownloadFailed`, and what `abort` was given."""
        return self._feed.blocks()

    def abort(self, error: WingsdError) -> None:
        """Make `blocks` raise `error`, and close the connection."""
        self._feed.fail(error)
        self._answer.close()

    def interrupt(self) -> None:
        """Make `blocks` raise."""
        self._feed.fail(DownloadFailed("the download is not needed any more"))

    def close(self) -> None:
        """Close the connection."""
        self._feed.close()
        self._answer.close()


@attrs.frozen(eq=False, repr=False)
class RestoreLinks:
    """Opens links to backups in S3. With `trusts_panel` these may lead to any address."""

    client: GuardedClient
    reactor: IReactorFromThreads
    limits: FetchLimits = _LIMITS
    trusts_panel: bool = False
    _log = Logger()

    async def open(self, url: str) -> DownloadedArchive:
        """Request the archive. Raises `BackupLinkRefused`, `DownloadFailed`."""
        answer = await self._answer(url)
        try:
            _check(answer)
        except BaseException:
            answer.close()
            raise
        return DownloadedArchive(answer, self.reactor)

    async def _answer(self, url: str) -> GuardedAnswer:
        try:
            return await self.client.get(url, self.limits, is_trusted=self.trusts_panel)
        except UrlSchemeRefused as error:
            raise BackupLinkRefused("The provided backup link must use HTTP or HTTPS.") from error
        except UrlInvalid as error:
            raise BackupLinkRefused(
                "The provided backup link is not a valid URL.", error.reason
            ) from error
        except AddressBlocked as error:
            self._log.warn(
                "the link to a backup in S3 is refused: {reason}, with {key}",
                reason=error.detail,
                key=_ALLOWLIST,
            )
            raise BackupLinkRefused(
                "The provided backup link resolves to a blocked address.",
                f"if it is that of your own store, add its host to {_ALLOWLIST} in this node's "
                "configuration",
            ) from error
        except TooManyRedirects as error:
            raise BackupLinkRefused(
                "The provided backup link redirects too many times.", error.detail
            ) from error


def _check(answer: GuardedAnswer) -> None:
    if answer.status != HTTPStatus.OK:
        raise BackupLinkRefused(
            "The provided backup link returned an invalid response status: "
            f"{_status(answer.status)}",
            "a link of S3 is good for some minutes; restore the backup again",
        )
    kind = answer.header("content-type")
    if kind.partition(";")[0].strip().lower() not in _ACCEPTED:
        shown = kind if _TYPE.fullmatch(kind) else escaped(kind[:200])
        raise BackupLinkRefused(
            "The provided backup link is not a supported content type. "
            f'"{shown}" is not application/x-gzip.'
        )


def _status(code: int) -> str:
    with suppress(ValueError):
        return f"{code} {HTTPStatus(code).phrase}"
    return str(code)
