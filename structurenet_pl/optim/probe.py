"""How an optimizer treats its lr, its groups and the size of gradients, observed on small copies."""

from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from structurenet_pl.optim.small_copies import COPY_LR, START_VALUES, Recipe, train

TINY_LR = 1e-6  # parameters hardly move, so gradients hardly change
STEPS_BEFORE_UPDATE = 12  # an optimizer may normalise late, as RAdam does from the sixth step on
STEEP_SLOPE = 10.0
# relative to the usual update; an update that grows by less, although gradients grow by STEEP_SLOPE, is normalised
MAX_NORMALISED_UPDATE = 2.0


@dataclass(frozen=True)
class LRBehaviour:
    """How an optimizer treats its lr and its groups. A field that cannot be observed is True, as usual.

    Args:
        follows_lr: Its updates change when the lr changes after the first steps.
        keeps_lr: It does not write its lr.
        groups_independent: A parameter's updates do not depend on the other parameters in its group.
        accepts_lrs_by_group: Its groups may have different lrs.
    """

    follows_lr: bool = True
    keeps_lr: bool = True
    groups_independent: bool = True
    accepts_lrs_by_group: bool = True


def probe_lr_behaviour(optimizer: Optimizer) -> LRBehaviour:
    """Train small copies of an optimizer, if copies can be made, and compare them."""
    try:
        recipe = Recipe.of(optimizer)
        by_group = recipe.lists_by_group()
        steady = recipe.make(START_VALUES)
        end = train(steady, later_lrs=[COPY_LR])
        slowed_end = train(recipe.make(START_VALUES), later_lrs=[COPY_LR / 10])
        split_end = train(recipe.make(START_VALUES, split=True, by_group=by_group), later_lrs=[COPY_LR, COPY_LR])
    except Exception:  # any error of somebody's optimizer that needs more than a copy on the CPU has
        return LRBehaviour()
    try:
        train(recipe.make(START_VALUES, split=True, by_group=by_group), later_lrs=[COPY_LR, COPY_LR / 10])
        accepts_lrs_by_group = True
    except Exception:  # optimizers refuse with errors of any class
        accepts_lrs_by_group = False
    never_moved = torch.equal(end, torch.cat(START_VALUES).flatten())  # so that nothing can be said of its lr
    return LRBehaviour(
        follows_lr=never_moved or not torch.equal(end, slowed_end),
        keeps_lr=all(float(group["lr"]) == COPY_LR for group in steady.param_groups),
        groups_independent=torch.equal(end, split_end),
        accepts_lrs_by_group=accepts_lrs_by_group,
    )


def normalises_gradients(optimizer: Optimizer) -> bool:
    """Whether its updates have about the same size when gradients are ten times as large.

    Returns:
        False, too, if that cannot be observed.
    """
    try:
        recipe = Recipe.of(optimizer)
        update, steep_update = (_late_update_norm(recipe, slope) for slope in (1.0, STEEP_SLOPE))
    except Exception:  # as in probe_lr_behaviour
        return False
    return 0 < steep_update < MAX_NORMALISED_UPDATE * update


def _late_update_norm(recipe: Recipe, slope: float) -> float:
    """The norm of one update after some steps."""
    made = recipe.make(START_VALUES, lr=TINY_LR)
    before = train(made, slope=slope, steps=STEPS_BEFORE_UPDATE)
    return float((train(made, slope=slope, steps=1) - before).norm())
