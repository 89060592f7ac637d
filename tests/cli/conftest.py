"""What the tests of this room share."""

from tests.cli.daemon import scripted, wingsctl

__all__ = ["scripted", "wingsctl"]
