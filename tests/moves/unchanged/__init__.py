"""The rule for files that are carried over unread, without a disk; tests/unchanged has disks."""
