"""The files of servers: each access goes by directory descriptors, and follows no symlink out.

Blocking, without a reactor. `ServerRoot` is one server's directory for one action, `ServerPath` a
path in it, and a `DirectoryOpener` opens the directories on the way. What is written counts in a
`UsageCounter`. Whole trees are read by `walk`, measured by `survey`, given to an owner by
`give_tree` and deleted by `remove_tree`.
"""
