"""wingsd: a node daemon that receives whole game servers as one stream."""

from importlib import import_module

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    """Return `__version__`, looked up when it is asked for.

    That takes longer than all else that a process which parses one egg file imports.
    """
    if name == "__version__":
        return str(import_module("importlib.metadata").version("wingsd"))
    raise AttributeError(name)
