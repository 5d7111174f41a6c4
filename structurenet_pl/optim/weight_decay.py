"""The part of the weight decay that an optimizer adds to the gradient."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.optim import Optimizer

from structurenet_pl.optim.small_copies import START_VALUES, Recipe, train
from structurenet_pl.optim.state_kinds import tensors_in

TRIED_DECAYS = (0.0, 0.5)

_DECOUPLED: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()  # LARS asks in each step


def coupled_weight_decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """The weight decay that an optimizer adds to the gradient; 0 if it shrinks the weights directly, as AdamW does.

    Args:
        optimizer: The optimizer.
        group: One of its param groups.
    """
    decay = float(group.get("weight_decay", 0.0))
    # the flags of torch and of other packages: a group may differ from the group that is tried
    if not decay or group.get("decoupled_weight_decay", False) or group.get("weight_decouple", False):
        return 0.0
    if optimizer not in _DECOUPLED:
        _DECOUPLED[optimizer] = _keeps_decay_out_of_state(optimizer)
    return 0.0 if _DECOUPLED[optimizer] else decay


def _keeps_decay_out_of_state(optimizer: Optimizer) -> bool:
    """Whether a step at gradient 0 leaves the same state with and without weight decay.

    A coupled decay is part of the gradient, and so of the momentum. An optimizer without state, such as plain SGD,
    counts as coupled: its update is the same either way.
    """
    states = []
    try:
        recipe = Recipe.of(optimizer)
        for decay in TRIED_DECAYS:
            tried = replace(recipe, settings={**recipe.settings, "weight_decay": decay}).make(START_VALUES)
            train(tried, slope=0.0, steps=1)
            states.append([tensor for state in tried.state.values() for _, tensor in tensors_in(state)])
    except Exception:  # no copy can be made, or it cannot step on the CPU: coupled, as most in torch.optim are
        return False
    without, decayed = states
    return bool(without) and len(without) == len(decayed) and all(map(torch.equal, without, decayed))
