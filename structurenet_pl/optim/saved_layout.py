"""Which parameter stands in which of the user's param groups: saved by name, for newborn ones stand there again."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from structurenet_pl.optim.param_groups import Group
from structurenet_pl.structure.partition import Structure


def save_layout(groups: Iterable[Group], names: Mapping[nn.Parameter, str]) -> list[list[str | None]]:
    """The names of the parameters in each of the user's groups, None for a tensor from outside the module."""
    return [[names.get(tensor) for tensor in group["params"]] for group in groups]


def restore_group_order(optimizer: Optimizer, structure: Structure, layout: Sequence[Sequence[str | None]]) -> None:
    """Put the parameters into the user's groups as a checkpoint had them, newborn ones included.

    Args:
        optimizer: As ``configure_optimizers`` made it.
        structure: The components of the module.
        layout: What :func:`save_layout` saved.

    Raises:
        ValueError: If checkpoint and optimizer do not hold the same parameters.
    """
    parameters = {name: tensor for tensor, name in structure.parameter_names.items()}
    newborn = {
        name
        for component, tensors in structure.parameters.items()
        if not structure.components[component].founding
        for name in tensors
    }
    saved = {name for names in layout for name in names if name is not None}
    held = {tensor for group in optimizer.param_groups for tensor in group["params"]}
    present = {name for name, tensor in parameters.items() if tensor in held}
    gone, extra = sorted(saved - present - newborn), sorted(present - saved)
    if gone or extra or len(layout) != len(optimizer.param_groups):
        raise ValueError(
            f"the checkpoint's optimizer has {len(layout)} param groups and this run's {len(optimizer.param_groups)}; "
            f"it holds {gone}, which this run's does not, and this run's holds {extra}, which it does not. Resume with "
            "the module and the configure_optimizers that wrote it. What was born after a fit, outside of it, has no "
            "state to resume, nor have the groups of a callback that adds param groups during the fit."
        )
    for group, names in zip(optimizer.param_groups, layout, strict=True):
        outside = iter([tensor for tensor in group["params"] if tensor not in structure.parameter_names])
        group["params"][:] = [next(outside) if name is None else parameters[name] for name in names]
        if "param_names" in group:
            group["param_names"][:] = [name or "outside" for name in names]
