"""Benchmarks: real daemons beside reference programs, on fresh filesystems."""
