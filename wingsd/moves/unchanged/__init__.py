"""Which files of a running server need not be read again: docs/moves.md has the rule.

Blocking, without a reactor. `UnchangedFiles` (`rule`) is asked in each round of a move; it keeps
`SettledFiles` (`settled_files`). `MeasuredFileSystems` (`file_systems`, `measurement`) knows where
the rule holds. `SpotCheck` reads some of what was not read, and `first_difference` (`last_walk`)
finds what was changed after the final pass.
"""
