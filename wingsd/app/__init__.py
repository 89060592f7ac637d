"""The daemon as a whole: how it is wired, started, reloaded and ended."""
