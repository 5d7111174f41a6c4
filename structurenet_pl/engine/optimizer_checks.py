"""Errors and warnings about optimizers that cannot give each component its own lr, or only in part."""

from collections.abc import Iterable

from torch.optim import LBFGS, Optimizer

from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.lightning import MisconfigurationException, rank_zero_warn
from structurenet_pl.optim.param_groups import settings_of
from structurenet_pl.optim.probe import probe_lr_behaviour
from structurenet_pl.optim.state_kinds import tensors_in
from structurenet_pl.optim.wrappers import hookable_optimizers, with_inner
from structurenet_pl.structure.partition import Structure


def check_optimizer(optimizer: Optimizer, structure: Structure, factors: Factors) -> None:
    """Refuse an optimizer that cannot give each component its own lr, and warn of side effects.

    Args:
        optimizer: An optimizer of the Trainer, before its groups are split.
        structure: The components by which the groups will be split.
        factors: The factors that will act on the components.

    Raises:
        MisconfigurationException: If the optimizer takes a single param group only, has no lr, writes its lr itself, or
            saves its groups in its own format.
    """
    params = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    components = {structure.owner[tensor] for tensor in params if tensor in structure.owner}
    _check_groups(optimizer, components, factors)
    _check_by_trial(optimizer, components, factors)


def _check_groups(optimizer: Optimizer, components: set[str], factors: Factors) -> None:
    """Refuse an optimizer whose param groups cannot be split, by their form."""
    name = type(optimizer).__name__
    if isinstance(optimizer, LBFGS) and (len(components) > 1 or factors.need_gradients):
        raise MisconfigurationException(
            f"{name} takes one param group only and reads its lr before gradients are known, but the lr depends on "
            f"the component, and there are {len(components)}: {sorted(components)}, or on gradients. Use an "
            f"optimizer with param groups, such as SGD or AdamW, or give {name} the parameters of one component."
        )
    if factors and any(group.get("lr") is None for group in optimizer.param_groups):
        raise MisconfigurationException(
            f"{name} has no lr, so {', '.join(factors)} could have no effect. Use an optimizer that follows its "
            "lr, such as SGD or AdamW, or remove the LR callbacks."
        )
    if not _has_standard_state_dict(optimizer):
        raise MisconfigurationException(
            f"{name} keeps or saves its groups in a form of its own, which depends on how they are split. Use the "
            "inner optimizer, or a wrapper that shares its groups and saves the same state dict as torch's optimizers."
        )
    if any(tensor.numel() > 1 for group in optimizer.param_groups for _, tensor in tensors_in(settings_of(group))):
        raise MisconfigurationException(
            f"{name} keeps tensors of its parameters in its param groups, which must be split by component. Use an "
            "optimizer that keeps such tensors in its state."
        )


def _check_by_trial(optimizer: Optimizer, components: set[str], factors: Factors) -> None:
    """Refuse an optimizer, or warn of it, by what a copy of it does with a few small tensors."""
    name, labels = type(optimizer).__name__, ", ".join(factors)
    trial = probe_lr_behaviour(optimizer)
    if factors and not trial.keeps_lr:
        raise MisconfigurationException(
            f"{name} writes its lr at every step, so {labels} would be applied again at every step. Use an optimizer "
            "that leaves its lr alone, such as SGD or AdamW, or remove the LR callbacks."
        )
    if factors and not trial.accepts_lrs_by_group and len(components) > 1:
        raise MisconfigurationException(
            f"{name} refuses param groups with lrs of their own, so {labels} cannot act. Use an optimizer that accepts "
            "an lr for each group, such as SGD or AdamW, or remove the LR callbacks."
        )
    if factors and not trial.follows_lr:
        rank_zero_warn(
            f"{name} was tried with two lrs and gave the same updates, so {labels} may have no effect. Use an "
            "optimizer that follows its lr, such as SGD or AdamW."
        )
    # the argument by which pytorch_optimizer's Ranger21 switches its inner schedule off
    if factors and getattr(optimizer, "disable_lr_scheduler", True) is False:
        rank_zero_warn(
            f"{name} has an inner schedule that does not follow the lr throughout: pass disable_lr_scheduler=True and "
            "use an LR scheduler."
        )
    if len(components) > 1 and not trial.groups_independent:
        rank_zero_warn(
            f"{name} computes over all tensors of a param group. Groups are split by component, so it now computes "
            "over each component, and a run differs from one without these callbacks even if all factors are 1."
        )


def _has_standard_state_dict(optimizer: Optimizer) -> bool:
    """Whether inner optimizers share the groups of the outer one, and hooks and state dict are those of torch."""
    if not hookable_optimizers(optimizer):
        return False  # without state dict hooks, a checkpoint would hold the split groups
    own = set(map(id, optimizer.param_groups))
    if any(id(group) not in own for inner in with_inner(optimizer) for group in inner.param_groups):
        return False
    try:
        return {"state", "param_groups"} <= optimizer.state_dict().keys()
    except RuntimeError:  # ZeroRedundancyOptimizer, whose state is spread over the ranks
        return False


def check_gradients_are_unscaled(optimizers: Iterable[Optimizer]) -> None:
    """Refuse fused optimizers under a gradient scaler where factors read gradients.

    Raises:
        MisconfigurationException: If an optimizer unscales the gradients within its step, after factors have read them.
    """
    # the private flag is the one by which torch.amp.GradScaler decides whether the step itself unscales
    if fused := [type(one).__name__ for one in optimizers if getattr(one, "_step_supports_amp_scaling", False)]:
        raise MisconfigurationException(
            f"{', '.join(fused)} with fused=True leaves gradients scaled until its step, where factors can no longer "
            "read them: use fused=False with LARSScaler and 16-mixed precision."
        )
