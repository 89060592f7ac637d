"""Any trees, one after the other, arrive as they are: names, metadata, links and contents."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import Destination, Source, differing, send_all
from tests.support.archives import seen

pytestmark = pytest.mark.root


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(change, max_size=12), min_size=1, max_size=4), st.integers(0, 10**6))
def test_any_trees_arrive_in_any_order_of_batches(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[list[tuple[str, int, int, bytes]]],
    seed: int,
) -> None:
    place = tmp_path_factory.mktemp("move")
    (place / "source").mkdir()
    source, changes = Source(root=place / "source"), Changes(place / "source")
    destination = Destination(place / "destination")
    random_ = random.Random(seed)
    for steps in rounds:
        for step in steps:
            changes.run(step)
        with destination.open() as to:
            batches = source.round()
            send_all(to, batches, random_)
            in_round, last = source.filler.round, source.filler.number
            to.close_round(in_round, last, source.sent.root())
            to.close_round(in_round, last, source.sent.root())
            if random_.random() < 0.5:
                to.compact()
            to.finish()
            assert differing(to, destination.tree) == []
        assert seen(destination.tree, owner=False) == seen(place / "source", owner=False)
        assert not os.listdir(destination.place / "aside")
