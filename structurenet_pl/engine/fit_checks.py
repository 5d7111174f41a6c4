"""Errors at the start of a fit, before anything is changed: combinations that cannot work."""

from collections.abc import Iterable, Sequence

from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from structurenet_pl.engine.optimizer_checks import check_gradients_are_unscaled, check_optimizer
from structurenet_pl.learning_rates.factors import Factors
from structurenet_pl.lightning import MisconfigurationException
from structurenet_pl.structure.partition import Structure

INCOMPATIBLE_CALLBACKS = {
    "BackboneFinetuning": "takes its lr from the first param group and writes it to the last",
    "FinetuningScheduler": "replaces the param groups of the optimizer by its own",
}


def check_fit(
    callbacks: Iterable[object],
    optimizers: Sequence[Optimizer],
    structure: Structure,
    factors: Factors,
    scaler: object | None,
) -> None:
    """Refuse a fit that cannot work.

    Args:
        callbacks: All callbacks of the Trainer.
        optimizers: The optimizers of the Trainer, before their groups are split.
        structure: The components by which the groups will be split.
        factors: The factors of the Trainer.
        scaler: The gradient scaler of mixed precision, None if there is none.

    Raises:
        MisconfigurationException: If a callback, an optimizer or a parameter does not fit groups by component.
    """
    check_other_callbacks(callbacks)
    for optimizer in optimizers:
        check_optimizer(optimizer, structure, factors)
    if factors.split_1d:
        check_shapes(structure)
    if factors.need_gradients and scaler is not None:
        check_gradients_are_unscaled(optimizers)


def check_other_callbacks(callbacks: Iterable[object]) -> None:
    """Refuse callbacks that rely on param groups as the user made them.

    Raises:
        MisconfigurationException: If a callback finds groups by position, or replaces them.
    """
    for callback in callbacks:
        # by name: a callback may come from either Lightning, or from a package that is not installed here
        for name in INCOMPATIBLE_CALLBACKS.keys() & {base.__name__ for base in type(callback).__mro__}:
            raise MisconfigurationException(
                f"{name} {INCOMPATIBLE_CALLBACKS[name]}, which is wrong where groups are split by component. Remove "
                "it, and freeze the backbone with ProgressiveFreeze, or slow it down with "
                "Components({'backbone.*': 'pretrained'}) and RoleLR."
            )


def check_shapes(structure: Structure) -> None:
    """Refuse lazy parameters where groups depend on the number of dimensions.

    Raises:
        MisconfigurationException: If a parameter has no shape yet.
    """
    lazy = [name for tensor, name in structure.parameter_names.items() if is_lazy(tensor)]
    if lazy:
        raise MisconfigurationException(
            f"parameters {lazy} have no shape yet, but LARSScaler(skip_1d=True) needs shapes to give one-dimensional "
            "tensors their own group: send one batch through the module before the fit, or use skip_1d=False."
        )
