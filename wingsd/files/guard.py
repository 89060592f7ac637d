"""The access of a request to a server's files: to all but those on a denylist.

A path is judged as it was given, and as where it really is when symlinks lead there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from wingsd.errors import BadRequest, DirectoryMissing, FileDenied, FileWorkCancelled
from wingsd.files.denylist import Denylist
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.walk import Listing

#: Directories with denied files in one directory that is deleted.
MAX_KEPT = 1 << 16
#: The names in all of their paths.
MAX_KEPT_NAMES = 1 << 20


class Progress:
    """The progress of one piece of work. Its thread writes it; any thread reads and cancels it.

    `bytes_total` is 0 while it is not known, `target` None while it is not decided.
    """

    def __init__(self) -> None:
        self.bytes_done = 0
        self.bytes_total = 0
        self.files_done = 0
        #: The path of what is made.
        self.target: ServerPath | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """End the work soon, with `FileWorkCancelled`."""
        self._is_cancelled = True

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._is_cancelled

    def check(self) -> None:
        """Raise `FileWorkCancelled` where it was cancelled."""
        if self._is_cancelled:
            raise FileWorkCancelled


class Guard:
    """The open directory of a server for one request, and the denylists that apply to it.

    `progress` is that of the request's work. Blocking.
    """

    def __init__(
        self, root: ServerRoot, *denylists: Denylist, progress: Progress | None = None
    ) -> None:
        self.root = root
        self.progress = progress or Progress()
        self._denylists = tuple(each for each in denylists if not each.is_empty)

    def check(self, *paths: ServerPath, is_directory: bool = False) -> None:
        """Raise `FileDenied` where a path is denied, and the errors of `ServerRoot.real_path`."""
        for path in paths:
            if self.denies(path, is_directory=is_directory):
                raise FileDenied(str(path))

    def denies(self, path: ServerPath, *, is_directory: bool = False) -> bool:
        """Return whether a path is denied. Raises the errors of `ServerRoot.real_path`."""
        if not self._denylists:
            return False
        return self._denied(self.root.places(path), is_directory)

    def check_tree(self, path: ServerPath, target: ServerPath) -> None:
        """Raise `FileDenied` where something in the directory `path` is denied.

        It is denied as well if it would be in the directory `target`, where it is to be moved.
        """
        if not self._denylists:
            return
        places = (*self.root.places(path), *self.root.places(target))
        for name in self._denied_below(path, *places):
            raise FileDenied(str(name))

    def kept(self, path: ServerPath) -> set[ServerPath]:
        """Return the directories from `path` down that something denied is in.

        Raises `BadRequest` where there are too many.
        """
        kept: set[ServerPath] = set()
        names = 0
        if not self._denylists:
            return kept
        for name in self._denied_below(path, *self.root.places(path)):
            above = name.parent
            while path.contains(above) and above not in kept:
                kept.add(above)
                names += len(above.parts)
                above = above.parent
            if len(kept) > MAX_KEPT or names > MAX_KEPT_NAMES:
                raise BadRequest(
                    "Cannot perform that action: too many directories hold files of the egg's "
                    "denylist.",
                    f"{path} holds more than can be kept in memory; delete its directories one by "
                    "one",
                )
        return kept

    @contextmanager
    def tree(
        self,
        top: ServerPath,
        *others: ServerPath,
        select: Callable[[Listing], Listing] = lambda listing: listing,
    ) -> Iterator[Iterator[Listing]]:
        """Walk through all below a directory that `select` leaves and that is not denied.

        It is denied as well if it would be in one of the directories `others`. Raises as
        `ServerRoot.directory` and `Directory.tree`.
        """
        places = [place for path in (top, *others) for place in self.root.places(path)]

        def allowed(listing: Listing) -> Listing:
            here = [ServerPath((*place.parts, *listing.path)) for place in places]
            listing = select(listing)
            if not self._denylists:
                return listing
            return listing.filtered(
                lambda name, is_directory: (
                    not self._denied([place.child(name) for place in here], is_directory)
                )
            )

        with self.root.directory(top) as directory, directory.tree(allowed) as listings:
            yield listings

    def _denied(self, paths: Iterable[ServerPath], is_directory: bool) -> bool:
        paths = dict.fromkeys(paths)
        return any(
            each.denies(path, is_directory=is_directory)
            for each in self._denylists
            for path in paths
        )

    def _denied_below(self, path: ServerPath, *places: ServerPath) -> Iterator[ServerPath]:
        """Yield the denied entries below a directory; a denied directory is not looked into."""
        with suppress(DirectoryMissing), self.root.directory(path) as top:
            pairs = tuple(dict.fromkeys(places))
            denied: list[ServerPath] = []

            def select(listing: Listing) -> Listing:
                here = [ServerPath((*place.parts, *listing.path)) for place in pairs]

                def keep(name: bytes, is_directory: bool) -> bool:
                    paths = [place.child(name) for place in here]
                    if self._denied(paths, is_directory):
                        denied.append(paths[0])
                        return False
                    return True

                return listing.filtered(keep)

            with top.tree(select) as listings:
                for _ in listings:
                    if self.progress.cancelled():
                        raise FileWorkCancelled
                    yield from denied
                    denied.clear()
