"""Histories of servers: points in time of their files, each of which can be rebuilt.

A history is a copy of a server's files as they were at the newest point, and for each older point
a delta, by which the next newer one becomes it. docs/history.md has the format.
"""
