"""How an optimizer treats its lr, its groups and the size of gradients, observed on small copies."""

from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from structurenet_pl.optim.small_copies import COPY_LR, START_VALUES, Recipe, train
from structurenet_pl.optim.state_kinds import MAX_RELATIVE_DISTANCE, state_kinds, tensors_in
from structurenet_pl.optim.wrappers import with_inner

TINY_LR = 1e-6  # parameters hardly move, so gradients hardly change
STEPS_BEFORE_UPDATE = 12  # an optimizer may change late, as RAdam and Lookahead do from the sixth step on
STEEP_SLOPE = 10.0
# relative to the usual update; an update that grows by less, although gradients grow by STEEP_SLOPE, is normalised
MAX_NORMALISED_UPDATE = 2.0
UPDATE_SHARE = 0.5  # of an update, or of the lr
MAX_SCALING_ERROR = 1e-4  # absolute; updates are of the size of COPY_LR, and ASGD differs by 1e-7


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


def update_can_be_scaled(optimizer: Optimizer) -> bool:
    """Whether the parameters may be changed after a step, although the state may hold a copy of them.

    Scaling each update must then give the same as a smaller lr. Without a copy of the parameters in the state, nothing
    can contradict the scaled parameters. No small copy can be made of a wrapper, so its state must not be near the
    parameters.

    Returns:
        True, too, if that cannot be observed.
    """
    try:
        recipe = Recipe.of(optimizer)
    except TypeError:
        return not _holds_weights(optimizer)
    kinds = state_kinds(optimizer).of(START_VALUES[0].ndim, {})
    if not any(kind.follows == "weight" for kind in kinds.values()):
        return True
    try:
        slow_end = train(recipe.make(START_VALUES, lr=COPY_LR * UPDATE_SHARE), steps=STEPS_BEFORE_UPDATE)
        scaled = recipe.make(START_VALUES)
        weights = [weight for group in scaled.param_groups for weight in group["params"]]
        for _ in range(STEPS_BEFORE_UPDATE):
            before = [weight.detach().clone() for weight in weights]
            train(scaled, steps=1)
            for weight, old in zip(weights, before, strict=True):
                weight.data.lerp_(old, 1 - UPDATE_SHARE)
        scaled_end = torch.cat([weight.detach().flatten() for weight in weights])
    except Exception:  # as in probe_lr_behaviour
        return True
    return torch.allclose(slow_end, scaled_end, rtol=0.0, atol=MAX_SCALING_ERROR)


def _holds_weights(wrapper: Optimizer) -> bool:
    """Whether a tensor in a state is near its parameter by now, such as the slow weights of Lookahead."""
    return any(
        state.shape == weight.shape and bool((state - weight).norm() < MAX_RELATIVE_DISTANCE * weight.norm())
        for optimizer in with_inner(wrapper)
        for weight, entries in optimizer.state.items()
        for _, state in tensors_in(entries)
    )
