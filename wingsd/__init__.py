"""wingsd: a node daemon that receives whole game servers as one stream."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__: str = version("wingsd")
