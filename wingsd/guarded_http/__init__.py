"""HTTP from addresses that users give: only to public addresses, within bounds.

`GuardedClient` requests a file, with its redirects; `GuardedAnswer` is the answer, whose body goes
to a consumer at its own pace.
"""

from wingsd.guarded_http.client import FetchLimits, GuardedAnswer, GuardedClient
from wingsd.guarded_http.errors import (
    AddressBlocked,
    DownloadFailed,
    TooManyRedirects,
    UrlInvalid,
    UrlSchemeRefused,
)
from wingsd.guarded_http.policy import AddressPolicy

__all__ = [
    "AddressBlocked",
    "AddressPolicy",
    "DownloadFailed",
    "FetchLimits",
    "GuardedAnswer",
    "GuardedClient",
    "TooManyRedirects",
    "UrlInvalid",
    "UrlSchemeRefused",
]
