"""What a move carries over unread, against a process that changes a running server's files.

`writer` is that process, with `directories`. `product` has the rounds of a move as a daemon takes
them, and its destination; `source` has them reduced to scans, for rules of any kind. `trials` lets
writer and rounds run against each other, and compares the files with the disk when the writer is
dead. `naive` has rules that are wrong, which must be caught. `disks` mounts file systems;
`stalled_write` makes a write(2) that takes as long as a test wants.
"""
