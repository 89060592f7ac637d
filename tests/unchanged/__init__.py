"""What a move carries over unread, against a process that changes a running server's files.

`writer` is that process, `source` the rounds of a move, `trials` lets both run against each other
and compares every file that was not read with the disk when the writer is dead. `naive` has rules
that are wrong, which must be caught. `disks` mounts file systems; `stalled_write` makes a write(2)
that takes as long as a test wants.
"""
