"""The interface as OpenAPI 3.1 describes one, made from what the paths declare.

`python -m wingsd.web.openapi` prints it, as the node answers it at `/openapi.json`.
"""

from wingsd.web.openapi.document import document

__all__ = ["document"]
