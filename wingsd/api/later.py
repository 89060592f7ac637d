"""Endpoints whose modules are imported by the first request for them.

A node at rest does without most calls, whose modules take 3 MiB and 60 ms of CPU time. They are
imported when a request's headers have arrived, before its body is read or anything is changed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import attrs
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.api.resource import Public
from wingsd.errors import WingsdError
from wingsd.util.later import Later, not_prepared

__all__ = ["LaterEndpoint"]


@attrs.frozen(repr=False)
class LaterEndpoint:
    """An endpoint class, by the name of its module in `package` and its own; called like it."""

    module: str
    name: str
    package: str = "wingsd.api"

    def load(self) -> type[Public]:
        """Return the class. Raises `OSError`, `ImportError` when its module cannot be read."""
        loaded: type[Public] = getattr(import_module(f"{self.package}.{self.module}"), self.name)
        return loaded

    def __call__(self, *args: Any) -> Resource:
        """Return the resource of a request, or one that answers with why there is none.

        What is made `Later` is made for it.
        """
        try:
            endpoint = self.load()
            made = [each.get() if isinstance(each, Later) else each for each in args]
        except (OSError, ImportError) as error:
            return _NotImported(not_prepared(error))
        except WingsdError as error:
            return _NotImported(error)
        return endpoint(*made)


class _NotImported(Resource):
    """A path whose module could not be imported; the next request tries it again."""

    isLeaf = True
    _log = Logger()

    def __init__(self, error: WingsdError) -> None:
        super().__init__()
        self._error = error

    def render(self, request: Any) -> int:
        """Answer 500."""
        self._log.warn(
            "{path} failed: {error}",
            path=request.path.decode("latin-1"),
            error=self._error,
        )
        request.refuse(self._error)
        return NOT_DONE_YET
