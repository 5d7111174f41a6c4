"""What cannot work is refused before the first step, what has no effect is said."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer

from structurenet_pl.distributed.ddp import check_strategy
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.lightning import MisconfigurationException, Trainer, rank_zero_info, rank_zero_warn
from structurenet_pl.optim.param_groups import settings_of
from structurenet_pl.optim.probe import probe_lr_behaviour
from structurenet_pl.optim.state_kinds import tensors_in
from structurenet_pl.optim.wrappers import hookable_optimizers, with_inner
from structurenet_pl.structure.events import Component
from structurenet_pl.structure.growable import Growable
from structurenet_pl.structure.partition import Structure

MAX_NAMES_IN_MESSAGE = 12
WRONG_ABOUT_GROUPS = {
    "BackboneFinetuning": "takes its lr from the first param group and writes it to the last",
    "FinetuningScheduler": "puts param groups of its own in place of those of the optimizer",
}


def check_fit(
    callbacks: Iterable[object],
    optimizers: Sequence[Optimizer],
    structure: Structure,
    factors: Factors,
    scaler: object | None,
) -> None:
    """Refuse what cannot work, and say what was found, before anything is changed.

    Args:
        callbacks: All callbacks of the Trainer.
        optimizers: Those of the Trainer, not yet split.
        structure: The components they are to be split by.
        factors: The factors that are to act on them.
        scaler: What scales the gradients under mixed precision, None for nothing.
    """
    check_companions(callbacks)
    check_optimizers(optimizers, structure, factors, factors.need_gradients)
    if factors.split_1d:
        check_shapes(structure)
    if factors.need_gradients and scaler is not None:
        check_unscaled(optimizers)
    tell_components(structure)
    tell_about_tied(structure)
    for sentence in shared_basis(factors.basis, factors.acting):
        rank_zero_info(f"structurenet_pl: {sentence}")
    warn_freeze_twice({label: acting for label, acting in factors.acting.items() if factors[label].freezes})


def check_moment(checkpoint: Mapping[str, Any], module: nn.Module) -> None:
    """Refuse to go on behind the end of an epoch that has not been, where something may have grown.

    A checkpoint that was written between the last batch of an epoch and its validation is taken by Lightning for one of
    the next epoch: validation, hooks, callbacks and schedulers of that end are left out.

    Raises:
        MisconfigurationException: If the module can grow; else there is a warning.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    batches, epochs = loop.get("epoch_loop.batch_progress", {}), loop.get("epoch_progress", {}).get("current", {})
    batch = batches.get("current", {})
    if not (batches.get("is_last_batch") and batch["completed"] < batch["processed"]):
        return
    if epochs["processed"] == epochs["started"]:
        return
    sentence = (
        f"the checkpoint was written after the last batch of epoch {checkpoint['epoch']} and before its validation and "
        "its end, which Lightning would leave out, with all that callbacks, schedulers and growth do there"
    )
    way_out = (
        "Take a checkpoint from within an epoch or from its end. ModelCheckpoint(every_n_train_steps=n) writes none of "
        "these if n does not divide the number of steps in an epoch."
    )
    if isinstance(module, Growable):
        raise MisconfigurationException(f"{sentence}. {way_out}")
    rank_zero_warn(f"{sentence}. {way_out}")


def check_can_follow(trainer: Trainer, module: nn.Module) -> None:
    """Refuse growth that the optimizers in a fit would not follow.

    Raises:
        MisconfigurationException: If the module is not the one in training, or is spread over processes.
    """
    if trainer.lightning_module is not module:
        raise MisconfigurationException(
            f"{type(module).__name__} is a part of the module in training, whose optimizers would not follow its "
            "growth: let a growth method of the outermost module call it."
        )
    if trainer.optimizers:
        check_strategy(trainer)


def check_companions(callbacks: Iterable[object]) -> None:
    """Refuse callbacks that take the param groups for something else than they are.

    Raises:
        MisconfigurationException: If one goes by the position of a group, or puts groups of its own in their place.
    """
    for callback in callbacks:
        for name in WRONG_ABOUT_GROUPS.keys() & {kind.__name__ for kind in type(callback).__mro__}:
            raise MisconfigurationException(
                f"{name} {WRONG_ABOUT_GROUPS[name]}, which is wrong where groups are split by component. Leave it out, "
                "and freeze the backbone with ProgressiveFreeze, or slow it down with "
                "Components({'backbone.*': 'pretrained'}) and RoleLR."
            )


def check_unscaled(optimizers: Iterable[Optimizer]) -> None:
    """Refuse fused optimizers under a gradient scaler where gradients are read.

    Raises:
        MisconfigurationException: If one unscales the gradients within its step, when they have been read.
    """
    if fused := [type(one).__name__ for one in optimizers if getattr(one, "_step_supports_amp_scaling", False)]:
        raise MisconfigurationException(
            f"{', '.join(fused)} with fused=True leaves gradients scaled until its step, where they cannot be read "
            "any more: use fused=False with LARSScaler and 16-mixed precision."
        )


def check_shapes(structure: Structure) -> None:
    """Refuse lazy parameters where groups depend on the number of dimensions.

    Raises:
        MisconfigurationException: If one has no shape yet.
    """
    lazy = [name for tensor, name in structure.parameter_names.items() if is_lazy(tensor)]
    if lazy:
        raise MisconfigurationException(
            f"parameters {lazy} have no shape yet, but LARSScaler(skip_1d=True) sets those of one dimension apart: "
            "send one batch through the module before the fit, or use skip_1d=False."
        )


def check_optimizers(
    optimizers: Iterable[Optimizer], structure: Structure, factors: Iterable[str], need_gradients: bool
) -> None:
    """Refuse optimizers that cannot give each component an lr of its own.

    Args:
        optimizers: Those of the Trainer, not yet split.
        structure: The components they are to be split by.
        factors: Names of the factors that are to act on them.
        need_gradients: Whether one of these reads gradients.

    Raises:
        MisconfigurationException: If one takes a single param group only, has no lr, writes its lr itself, or saves
            its groups in a form of its own.
    """
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        params = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        components = {structure.owner[tensor] for tensor in params if tensor in structure.owner}
        if isinstance(optimizer, LBFGS) and (len(components) > 1 or need_gradients):
            raise MisconfigurationException(
                f"{kind} takes one param group only and reads its lr before there are gradients, but the lr depends on "
                f"the component, and there are {len(components)}: {sorted(components)}, or on gradients. Use an "
                f"optimizer with param groups, such as SGD or AdamW, or give {kind} the parameters of one component."
            )
        if factors and any(group.get("lr") is None for group in optimizer.param_groups):
            raise MisconfigurationException(
                f"{kind} has no lr, so {', '.join(factors)} could have no effect. Use an optimizer that follows its "
                "lr, such as SGD or AdamW, or remove the LR callbacks."
            )
        if not _saves_as_usual(optimizer):
            raise MisconfigurationException(
                f"{kind} keeps or saves its groups in a form of its own, which depends on how they are split. Use the "
                "optimizer inside, or a wrapper that shares its groups and saves what torch's optimizers save."
            )
        if any(tensor.numel() > 1 for group in optimizer.param_groups for _, tensor in tensors_in(settings_of(group))):
            raise MisconfigurationException(
                f"{kind} keeps tensors of its parameters in its param groups, which are to be split by component. Use "
                "an optimizer that keeps them in its state."
            )
        behaviour = probe_lr_behaviour(optimizer)
        if factors and not behaviour.keeps_lr:
            raise MisconfigurationException(
                f"{kind} writes its lr at every step, so {', '.join(factors)} would multiply up. Use an optimizer that "
                "leaves its lr alone, such as SGD or AdamW, or remove the LR callbacks."
            )
        if factors and not behaviour.accepts_lrs_by_group and len(components) > 1:
            raise MisconfigurationException(
                f"{kind} refuses param groups with lrs of their own, so {', '.join(factors)} cannot act. Use an "
                "optimizer that takes them, such as SGD or AdamW, or remove the LR callbacks."
            )
        if factors and not behaviour.follows_lr:
            rank_zero_warn(
                f"{kind} was tried with two lrs and gave the same updates, so {', '.join(factors)} may have no effect. "
                "Use an optimizer that follows its lr, such as SGD or AdamW."
            )
        if factors and getattr(optimizer, "disable_lr_scheduler", True) is False:
            rank_zero_warn(
                f"{kind} has a schedule of its own that does not follow the lr throughout: pass "
                "disable_lr_scheduler=True and use an LR scheduler."
            )
        if len(components) > 1 and not behaviour.groups_independent:
            rank_zero_warn(
                f"{kind} computes over all tensors of a param group. Groups are split by component, so it now computes "
                "over each component, and a run differs from one without these callbacks even where all factors are 1."
            )


def _saves_as_usual(optimizer: Optimizer) -> bool:
    """Whether those that it wraps have its own groups, and it has hooks and a state dict like those of torch."""
    if not hookable_optimizers(optimizer):
        return False  # whoever saves or loads it would see the groups as they are split
    own = set(map(id, optimizer.param_groups))
    if any(id(group) not in own for inner in with_inner(optimizer) for group in inner.param_groups):
        return False
    try:
        return {"state", "param_groups"} <= optimizer.state_dict().keys()
    except RuntimeError:  # ZeroRedundancyOptimizer, whose state is spread over the ranks
        return False


def tell_components(structure: Structure) -> None:
    """Say in one line which components were found."""
    names = list(structure.components)
    some = names if len(names) <= MAX_NAMES_IN_MESSAGE else [*names[: MAX_NAMES_IN_MESSAGE - 2], "...", names[-1]]
    rank_zero_info(f"structurenet_pl: {len(names)} components, in order of depth: {', '.join(some)}")


def tell_about_tied(structure: Structure) -> None:
    """Say who owns a parameter that components share."""
    for owner in dict.fromkeys(structure.tied.values()):
        names = [name for name, found in structure.tied.items() if found == owner]
        rank_zero_warn(
            f"component {owner!r} shares tensors with {names}: it owns them, being defined first, and its lr counts"
        )


def warn_too_late(waiting: Sequence[object]) -> None:
    """Warn of growth that still waits when the fit is over."""
    if waiting:
        rank_zero_warn(f"growth asked for after the last epoch was not carried out: {', '.join(map(str, waiting))}")


def warn_of_trial(request: object) -> None:
    """Warn of growth that is asked for while another set of callbacks runs."""
    rank_zero_warn(
        f"{request} was not carried out: the tuner tries something out with callbacks of its own, none of which "
        "follows growth, and takes the module as it is now."
    )


def shared_basis(basis: Mapping[str, str | None], acting: Mapping[str, Iterable[Component]]) -> list[str]:
    """A sentence for each two factors that go by the same thing and act on a component in common.

    Args:
        basis: What each factor goes by.
        acting: The components that each factor acts on.
    """
    return [
        f"{one} and {other} both go by {basis[one]}: they multiply on {', '.join(common)}"
        for one, other in combinations(basis, 2)
        if basis[one] is not None
        and basis[one] == basis[other]
        and (common := [component.name for component in acting[one] if component in acting[other]])
    ]


def warn_freeze_twice(acting: Mapping[str, Iterable[Component]]) -> None:
    """Warn of two factors that freeze the same components.

    Args:
        acting: The components that each of those that freeze acts on.
    """
    for one, other in combinations(acting, 2):
        if common := [component.name for component in acting[one] if component in acting[other]]:
            rank_zero_warn(
                f"{one} and {other} both freeze {', '.join(common)}: these stand still while either of them says so. "
                "Put all phases into one of them, or keep them apart with where=..."
            )
