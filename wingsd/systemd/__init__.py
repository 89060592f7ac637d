"""The interface to systemd: notifications, the journal, passed sockets. A no-op without systemd.

These protocols are small and stable. The maintained library, python3-systemd, is a C extension
on libsystemd: without a Debian package it would need a compiler.
"""
