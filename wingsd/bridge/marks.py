"""How much of a stream may wait between the reactor and a thread. Bytes, all of them."""

__all__ = ["BLOCK", "HIGH_MARK", "LOW_MARK"]

#: Streams pass in pieces of this size: TLS hands data up 16 KiB at a time, and taking the lock
#: and waking the other side for each of these costs more than copying them once.
BLOCK = 256 * 1024
#: Waiting bytes at which the writing side is stopped, and at which it may go on.
HIGH_MARK = 4 * 1024 * 1024
LOW_MARK = 2 * 1024 * 1024
