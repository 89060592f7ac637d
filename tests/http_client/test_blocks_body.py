"""Bodies in memory: what was sent of them is not kept."""

from __future__ import annotations

import weakref

from wingsd.http_client.exchange import BlocksBody


class _Blocks(list[bytes]):
    """A list that can be referred to weakly."""


def test_blocks_that_were_sent_are_released() -> None:
    blocks = _Blocks([b"one", b"two"])
    alive = weakref.ref(blocks)
    sent: list[bytes] = []
    body = BlocksBody(blocks)
    del blocks
    assert alive() is not None
    body.start(sent.append, lambda: sent.append(b"end"))
    assert sent == [b"one", b"two", b"end"]
    assert alive() is None


def test_blocks_of_a_body_that_was_given_up_are_released() -> None:
    blocks = _Blocks([b"one", b"two"])
    alive = weakref.ref(blocks)
    body = BlocksBody(blocks)
    del blocks
    body.close()
    assert alive() is None
