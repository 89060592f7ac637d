"""Benchmarks: real daemons beside the yardsticks of their machine, on fresh filesystems."""
