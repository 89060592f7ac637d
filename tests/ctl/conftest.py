"""What the tests of this room share."""

from tests.ctl.daemon import scripted, wingsctl

__all__ = ["scripted", "wingsctl"]
