"""wingsd: a node daemon that receives whole game servers as one stream."""

__all__ = ["__release__", "__version__"]

__version__ = "0.2.0"
#: This version or, while it is developed, the last release before it.
__release__ = "0.2.0"
