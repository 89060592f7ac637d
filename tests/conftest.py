"""What the tests share."""

from tests.engine import busybox, engine
from tests.logs import logged_errors

__all__ = ["busybox", "engine", "logged_errors"]
