"""The signed URLs of a backup's parts: asked of the Panel, and asked for again when they expire.

Pterodactyl's and Pelican's Panels sign the parts of an archive whose size is known, and begin a
new upload with each call: parts that were sent before are not in it. Calagopus' Panel signs a
number of parts from any one on, always of the same upload.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import (
    BackupSettled,
    BackupUploadFailed,
    InvalidData,
    NodeTokenRefused,
    PanelError,
    PanelRefused,
    PanelUnreachable,
)
from wingsd.http_client.urls import parse_url
from wingsd.panel.client import Panel
from wingsd.util.retry import Backoff
from wingsd.util.serialization import structure

__all__ = ["PartUrl", "PartUrls", "SignedParts", "part_url", "parts_of_size", "parts_onwards"]

#: Parts of an upload, of any store.
MAX_PARTS = 10_000
#: Bytes of a URL: more would not fit into a request's headers.
MAX_URL = 8 * 1024
#: Parts sent at the same time, where the Panel does not say, and the most that it may say.
AT_ONCE, MOST_AT_ONCE = 4, 32
#: Seconds that a URL is good for, where it does not say.
LIFETIME = 3600.0
#: A URL is not used in its last seconds, at most a tenth: the store judges by its own clock.
MARGIN = 30.0
#: How long the Panel is asked for URLs while it cannot be reached: as long as Panels let a backup
#: be unfinished.
ASK_PANEL_FOR = 6 * 3600.0
BACKOFF = Backoff(1.0, 300.0)
#: The Panel's statuses after which it is asked again.
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

#: Those of a Panel that does not have a call.
_UNKNOWN_CALL = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


@attrs.frozen(eq=False, repr=False)
class PartUrl:
    """A URL of one part; `upload` is the store's name of the upload that the part goes into.

    `good_until`, when it is to be used at the latest, is in seconds of the reactor's clock.
    """

    url: str
    upload: str
    good_until: float


@attrs.frozen(eq=False, repr=False)
class SignedParts:
    """An answer of the Panel: the URLs of the parts from number `first` on.

    `part_size` is in bytes, of all parts but the last. `at_once` are to be sent at the same time.
    With `renewable`, new URLs are of the same upload.
    """

    first: int
    parts: tuple[PartUrl, ...]
    part_size: int
    at_once: int = AT_ONCE
    renewable: bool = False


#: Asks for the parts from a number on. Raises what `Panel` does.
AskForParts = Callable[[int], Awaitable[SignedParts]]


@attrs.frozen(eq=False, repr=False)
class _Answer:
    parts: tuple[str, ...]
    part_size: int
    max_concurrent_uploads: int = AT_ONCE


def parts_of_size(panel: Panel, backup: str, size: int, reactor: IReactorTime) -> AskForParts:
    """Return what asks for all parts of an archive of `size` bytes (Pterodactyl, Pelican)."""

    def read(answer: object) -> SignedParts:
        signed = _signed(answer, 1, reactor.seconds())
        count = math.ceil(size / signed.part_size)
        if len(signed.parts) != count:
            raise InvalidData(
                f"it signed {len(signed.parts)} parts of {signed.part_size} bytes for {size} bytes"
            )
        return signed

    async def ask(_: int) -> SignedParts:
        return await panel.get("backup_urls", f"/backups/{backup}?size={size}", read)

    return ask


def parts_onwards(panel: Panel, backup: str, reactor: IReactorTime) -> AskForParts:
    """Return what asks for some parts from a number on, without a size (Calagopus)."""

    async def ask(first: int) -> SignedParts:
        path = f"/backups/{backup}/s3/parts?from_part={first}"
        signed = await panel.get(
            "backup_urls", path, lambda answer: _signed(answer, first, reactor.seconds())
        )
        return attrs.evolve(signed, renewable=True)

    return ask


class PartUrls:
    """The URLs of all parts of one backup, one answer of the Panel at a time."""

    _log = Logger()

    def __init__(self, ask: AskForParts, reactor: IReactorTime, backup: str) -> None:
        self._ask = ask
        self._reactor = reactor
        self._backup = backup
        self._signed: SignedParts | None = None
        self._asking = DeferredLock()

    async def signed(self, number: int) -> SignedParts:
        """Return an answer with a URL of the part `number` that has not expired.

        Raises `BackupSettled`, `BackupUploadFailed`.
        """
        async with self._asking:
            if self._signed is None or not self._has(self._signed, number):
                self._signed = await self._ask_until_answered(number)
            return self._signed

    async def of(self, number: int) -> PartUrl:
        """Return a URL of the part `number`. Raises `BackupSettled`, `BackupUploadFailed`."""
        signed = await self.signed(number)
        return signed.parts[number - signed.first]

    def forget(self, url: PartUrl) -> None:
        """Do not use the answer that this URL was in any more."""
        if self._signed is not None and url in self._signed.parts:
            self._signed = None

    def _has(self, signed: SignedParts, number: int) -> bool:
        index = number - signed.first
        if not 0 <= index < len(signed.parts):
            return False
        return self._reactor.seconds() < signed.parts[index].good_until

    async def _ask_until_answered(self, number: int) -> SignedParts:
        if number > MAX_PARTS:
            raise BackupUploadFailed(
                f"it has more than {MAX_PARTS} parts; make parts larger in the Panel"
            )
        deadline = self._reactor.seconds() + ASK_PANEL_FOR
        pauses = iter(BACKOFF)
        while True:
            try:
                signed = await self._ask(number)
            except (PanelUnreachable, NodeTokenRefused) as error:
                reason: PanelError = error
            except PanelRefused as error:
                if error.response_status not in _TRY_AGAIN:
                    raise _refusal(error) from error
                reason = error
            else:
                if not signed.first <= number < signed.first + len(signed.parts):
                    raise BackupUploadFailed(f"the Panel signed no URL for part {number}")
                return signed
            pause = max(next(pauses), reason.retry_after)
            if self._reactor.seconds() + pause > deadline:
                raise BackupUploadFailed(
                    f"the Panel has signed no URLs for {ASK_PANEL_FOR / 3600:g} h: {reason}"
                ) from reason
            self._log.warn(
                "backup {backup}: no URLs from the Panel, asking it again in {seconds:.0f} s: "
                "{reason}",
                backup=self._backup,
                seconds=pause,
                reason=reason,
            )
            await deferLater(self._reactor, pause)


def _refusal(error: PanelRefused) -> Exception:
    if error.response_status == HTTPStatus.CONFLICT:
        return BackupSettled(error.detail)
    return BackupUploadFailed(
        f"the Panel signs no URLs for it: {error.detail}",
        is_unknown_call=error.response_status in _UNKNOWN_CALL,
    )


def _signed(answer: object, first: int, now: float) -> SignedParts:
    """Read an answer of the Panel. Raises `InvalidData`."""
    found = structure(answer, _Answer)
    if found.part_size < 1:
        raise InvalidData(f"part_size: it must be above 0, and is {found.part_size}")
    if not 1 <= len(found.parts) <= MAX_PARTS:
        raise InvalidData(f"parts: 1 to {MAX_PARTS} of them are expected, not {len(found.parts)}")
    parts = tuple(part_url(url, now) for url in found.parts)
    at_once = min(max(found.max_concurrent_uploads, 1), MOST_AT_ONCE)
    return SignedParts(first, parts, found.part_size, at_once)


def part_url(url: str, now: float) -> PartUrl:
    """Read the URL of a part. Raises `InvalidData`, which does not quote it: it is a secret."""
    fault = ""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        fault = f"it must be of printable ASCII, and at most {MAX_URL} bytes long"
    else:
        try:
            parts = parse_url(url)
        except ValueError as error:
            fault = str(error)
    if fault:
        raise InvalidData(f"parts: the URL of a part is invalid: {fault}")
    query = {name.lower(): values[0] for name, values in parse_qs(parts.query).items()}
    lifetime = _lifetime(query)
    margin = min(MARGIN, lifetime / 10)
    return PartUrl(url, query.get("uploadid", ""), now + lifetime - margin)


def _lifetime(query: dict[str, str]) -> float:
    """Return for how many seconds from now on a URL is good, by its query."""
    seconds, until = query.get("x-amz-expires", ""), query.get("expires", "")
    if seconds.isdecimal():  # signature version 4: since it was signed, which is now
        return float(seconds[:9])
    if until.isdecimal():  # signature version 2: seconds since the epoch
        return float(until[:12]) - time.time()
    return LIFETIME
