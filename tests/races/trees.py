"""The parts of wingsd that work on whole directories of servers, as actions of the race."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType

from tests.races.actions import DIRECTORIES, OWNER, PATHS, Action, Actor
from tests.races.scene import MARK, OUTSIDE_SIZE, Touched
from wingsd.archive.compress import Compression
from wingsd.archive.pack import pack
from wingsd.archive.tree_writer import TreeWriter
from wingsd.egg_files.changes import Change
from wingsd.egg_files.child import Rewritten
from wingsd.egg_files.process import rewrite
from wingsd.errors import ArchiveError, FileMissing, StorageError
from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.walk import give_tree, survey
from wingsd.panel.schemas import ConfigurationFile, Replacement

__all__ = ["TREES"]


def _rewrite(actor: Actor) -> None:
    """Rewrite an egg file."""

    def parse(_: str, data: bytes, __: Sequence[Change]) -> Rewritten:
        if data.startswith(MARK):
            raise Touched("its content was read")
        return Rewritten(data[:100] + b"1", [])

    name = actor.chance.choice((*PATHS, *(f"{each}/new" for each in DIRECTORIES)))
    file = ConfigurationFile(name, "file", (Replacement("a", replace_with="b"),))
    if lines := rewrite(actor.root, [file], {}, parse):
        if "Touched" in lines[0]:
            raise Touched(lines[0])
        raise FileMissing(lines[0])


def _give(actor: Actor) -> None:
    """Give all files to the user of servers."""
    owner = OWNER[0] + actor.chance.randrange(2)
    given = give_tree(str(actor.scene.home), (owner, owner), lambda: False)
    if not given.changed:
        raise FileMissing(given.why)


def _measure(actor: Actor) -> None:
    """Measure the disk usage."""
    if survey(str(actor.scene.home)).largest_size == OUTSIDE_SIZE:
        raise Touched("a file was measured")


def _pack(actor: Actor) -> None:
    """Send everything, with symlinks or the files that they lead to."""
    packed = bytearray()
    pack(
        str(actor.scene.home),
        packed.extend,
        links=actor.chance.random() < 0.5,
        compression=Compression.NONE,
        warn=lambda line: None,
        progress=lambda size, files: None,
    )
    if MARK + b"." * 100 in packed:
        raise Touched("a file was packed")


def _extract(actor: Actor) -> None:
    """Extract a member of any kind over what is there."""
    writer = TreeWriter(str(actor.scene.home), OWNER)
    path = actor.chance.choice((actor.path, actor.new))().parts
    other = ServerPath.parse(actor.chance.choice(PATHS)).parts
    members: tuple[Callable[[], None], ...] = (
        lambda: writer.file(path, 0o644, 10**18, [memoryview(b"extracted")]),
        lambda: writer.directory(path, 0o755, 10**18),
        lambda: writer.symlink(path, 10**18, b"../outside"),
        lambda: writer.hard_link(path, other),
    )
    try:
        actor.chance.choice(members)()
        writer.finish()
    finally:
        writer.close()


def _or_refused(action: Action) -> Action:
    """Have an archive or a tree that cannot be read or written count as refused."""

    def attempt(actor: Actor) -> None:
        try:
            action(actor)
        except (ArchiveError, StorageError) as error:
            raise FileMissing(error.detail) from error

    return attempt


TREES: MappingProxyType[str, Action] = MappingProxyType(
    {
        "egg file": _rewrite,
        "give": _or_refused(_give),
        "measure": _or_refused(_measure),
        "pack": _or_refused(_pack),
        "extract": _or_refused(_extract),
    }
)
