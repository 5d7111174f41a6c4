"""Old entries come to their new places, whatever the order and however many runs of neighbours there are."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from structurenet_pl.structure import embed as module
from structurenet_pl.structure.embed import embed
from structurenet_pl.structure.tensor_mapping import NEW_ENTRY, Successor

FILL = 5.0


@st.composite
def origins(draw):
    """A shape, and for each dimension the old positions of the new entries, in any order."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    kept = [draw(st.lists(st.integers(0, size - 1), unique=True)) for size in shape]
    return shape, [draw(st.permutations([*(sorted(one) or [NEW_ENTRY]), NEW_ENTRY])) for one in kept]


@pytest.mark.parametrize("most_copies", [0, module.MAX_COPIES], ids=["indexing", "slices"])
@settings(deadline=None, max_examples=60)
@given(given_origins=origins())
def test_each_entry_comes_from_its_old_position(most_copies, given_origins):
    shape, origin = given_origins
    old = torch.randn(shape)
    successor = Successor(nn.Parameter(torch.empty([len(one) for one in origin])), old.shape, tuple(map(tuple, origin)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_COPIES", most_copies)
        result = embed(old, successor, [True] * old.ndim, torch.tensor(FILL))
    for place in product(*map(range, result.shape)):
        at = tuple(positions[index] for positions, index in zip(origin, place, strict=True))
        assert result[place] == (FILL if NEW_ENTRY in at else old[at])
