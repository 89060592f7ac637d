"""The units of the configuration's numbers, as its reference names them."""

from __future__ import annotations

from typing import Annotated

__all__ = ["Bytes", "BytesPerSecond", "Days", "MiB", "MiBPerSecond", "Seconds"]

Bytes = Annotated[int, "bytes"]
BytesPerSecond = Annotated[int, "bytes a second"]
Days = Annotated[int, "days"]
MiB = Annotated[int, "MiB"]
MiBPerSecond = Annotated[int, "MiB/s"]
Seconds = Annotated[int, "seconds"]
