"""Files of a running server that need not be read again: docs/moves.md has the rule.

Blocking, without a reactor. `UnchangedFiles` (`rule`) is asked in each round of a move; it keeps
`SettledFiles`. `MeasuredFileSystems` (`file_systems`) knows where the rule
holds.
"""
