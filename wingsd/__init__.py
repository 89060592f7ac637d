"""wingsd: the daemon of a game server node, for Pterodactyl's, Pelican's and Calagopus' Panels."""

__all__ = ["__release__", "__version__"]

__version__ = "0.2.0"
#: This version or, while it is developed, the last release before it.
__release__ = "0.2.0"
