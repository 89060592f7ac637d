"""A site that finds its paths in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.web.site import NotFound

__all__ = ["Paths"]

Rooms = TypeVar("Rooms")


class Paths(NotFound, Generic[Rooms]):
    """The root of a site: finds a path in the `table`, and nothing where it is not there.

    In the table a path has the names of its parts in braces. What is there is made for each
    request, of the `rooms` of the node and of those parts by their names.
    """

    def __init__(
        self,
        table: Mapping[str, Callable[[Rooms, Mapping[str, bytes]], Resource]],
        rooms: Rooms,
    ) -> None:
        super().__init__()
        self._rooms = rooms
        self._paths = [(path.split("/")[1:], make) for path, make in table.items()]

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return what is at a path, of which the first part is given and the others are left."""
        parts = [path, *request.postpath]
        for wanted, make in self._paths:
            found = _match(wanted, parts)
            if found is not None:
                return make(self._rooms, found)
        return NotFound()


def _match(wanted: list[str], parts: list[bytes]) -> dict[str, bytes] | None:
    """Return what is in the places of the names in braces; None when it is another path."""
    if len(wanted) != len(parts):
        return None
    found = {}
    for name, part in zip(wanted, parts, strict=True):
        if name.startswith("{"):
            found[name.strip("{}")] = part
        elif name.encode() != part:
            return None
    return found
