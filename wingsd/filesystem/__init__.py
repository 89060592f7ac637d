"""The files of servers: each access to them, by directory descriptors that nothing can trick.

Blocking, without a reactor. `ServerRoot` is one server's directory for one action, `ServerPath` a
path in it, and a `DirectoryOpener` opens the directories on the way. What is written counts in a
`Usage`. Whole trees are read by `walk`, measured by `survey`, given to an owner by `give_tree` and
deleted by `remove_tree`.
"""

from wingsd.filesystem.directory import Directory, Entry, OpenFile
from wingsd.filesystem.new_file import NewFile, NewFileOptions, Owner
from wingsd.filesystem.openers import (
    DirectoryOpener,
    Openat2Opener,
    OpenatOpener,
    directory_opener,
)
from wingsd.filesystem.paths import ServerPath, name_from_text, name_text
from wingsd.filesystem.removal import remove_tree
from wingsd.filesystem.root import ServerRoot
from wingsd.filesystem.usage import Usage, UsageCounter
from wingsd.filesystem.walk import MAX_SIZE, GivenTree, Measured, give_tree, measure, survey

__all__ = [
    "MAX_SIZE",
    "Directory",
    "DirectoryOpener",
    "Entry",
    "GivenTree",
    "Measured",
    "NewFile",
    "NewFileOptions",
    "OpenFile",
    "Openat2Opener",
    "OpenatOpener",
    "Owner",
    "ServerPath",
    "ServerRoot",
    "Usage",
    "UsageCounter",
    "directory_opener",
    "give_tree",
    "measure",
    "name_from_text",
    "name_text",
    "remove_tree",
    "survey",
]
