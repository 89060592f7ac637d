"""The owner of the files of servers in tests."""

from __future__ import annotations

import os

__all__ = ["OWNER"]

#: A user and a group that have no other files. Only root can give files away: else those of the
#: process.
OWNER = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
