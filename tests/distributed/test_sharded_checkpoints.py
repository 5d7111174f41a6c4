"""The state of an optimizer on its way into a file: numbered as its groups are, or refused."""

import pytest
from torch import nn

from structurenet_pl.distributed.sharded_checkpoints import numbered_as_by_torch

MODULE = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
LAYOUT = [["1.weight", "0.weight"], ["0.bias"]]
BY_LIGHTNING = {
    "state": {0: "of 0.weight", 1: "of 0.bias", 2: "of 1.weight"},
    "param_groups": [{"params": [0, 2]}, {"params": [1]}],
}


def test_parameters_are_numbered_in_their_order_in_the_groups():
    assert numbered_as_by_torch(BY_LIGHTNING, MODULE, LAYOUT) == {
        "state": {0: "of 1.weight", 1: "of 0.weight", 2: "of 0.bias"},
        "param_groups": [{"params": [0, 1]}, {"params": [2]}],
    }


@pytest.mark.parametrize("state", [{}, {"state": {"0.bias": 1}, "param_groups": [{"params": ["0.bias"]}]}])
def test_names_and_the_empty_state_of_another_rank_stay_as_they_are(state):
    assert numbered_as_by_torch(state, MODULE, LAYOUT) is state


def test_a_state_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="with 3 parameters, expected the 2 parameters of its groups"):
        numbered_as_by_torch(BY_LIGHTNING, MODULE, LAYOUT[:1])
