"""wingsd: a node daemon that receives whole game servers as one stream."""

__all__ = ["__version__"]

__version__ = "0.2.0.dev0"
