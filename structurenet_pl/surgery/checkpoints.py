"""Checkpoints hold the user's own param groups; ours are made of them again when a run is resumed."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.components import Structure
from structurenet_pl.surgery.param_groups import LISTS, Slot, by_origin, joined
from structurenet_pl.surgery.schedulers import own, reindex_state


def save_layout(
    optimizer: Optimizer, slots: Mapping[str, Slot], names: Mapping[nn.Parameter, str]
) -> list[list[str | None]]:
    """The names of the parameters in each of the user's groups, None for a tensor from outside the module."""
    return [[names.get(tensor) for tensor in group["params"]] for group in joined(optimizer.param_groups, slots)]


def arrange(optimizer: Optimizer, structure: Structure, layout: Sequence[Sequence[str | None]]) -> None:
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
        outside = (tensor for tensor in group["params"] if tensor not in structure.parameter_names)
        group["params"] = [next(outside) if name is None else parameters[name] for name in names]
        if "param_names" in group:
            group["param_names"] = [name or "outside" for name in names]


def own_settings(state: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, dict[str, Any]]:
    """What the pieces of the user's groups do not have in common, by the name of the piece: somebody wrote it there."""
    groups = state["param_groups"]
    return {
        groups[index]["name"]: differing
        for first, *others in by_origin([group.get("name") for group in groups], slots)
        for index in others
        if (differing := {key: value for key, value in groups[index].items() if _differs(key, value, groups[first])})
    }


def join_state(state: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """The state dict of an optimizer with the user's own groups."""
    return {**state, "param_groups": joined(state["param_groups"], slots)}


def split_state(
    state: Mapping[str, Any],
    optimizer: Optimizer,
    slots: Mapping[str, Slot],
    settings: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The state dict of an optimizer with groups by component, as the optimizer has them.

    Args:
        state: With the user's own groups.
        optimizer: Its groups are split.
        slots: What each of its groups stands for.
        settings: What :func:`own_settings` found.

    Raises:
        ValueError: If its groups are not those of the user's in this run.
    """
    groups = state["param_groups"]
    members = by_origin([group["name"] for group in optimizer.param_groups], slots)
    theirs = [len(group["params"]) for group in groups]
    ours = [sum(len(optimizer.param_groups[index]["params"]) for index in indices) for indices in members]
    if theirs != ours:
        raise ValueError(
            f"the optimizer of the checkpoint has param groups of {theirs} tensors, this run's configure_optimizers "
            f"makes groups of {ours}. Resume with the module and the configure_optimizers that wrote it."
        )
    split = []
    for group, indices in zip(groups, members, strict=True):
        rest = {key: iter(group[key]) for key in LISTS if key in group}
        for index in indices:
            ours_now = optimizer.param_groups[index]
            lists = {key: list(islice(items, len(ours_now["params"]))) for key, items in rest.items()}
            common = {key: own(value) for key, value in group.items()}
            split.append({**common, **settings.get(ours_now["name"], {}), **lists, "name": ours_now["name"]})
    return {**state, "param_groups": split}


def join_scheduler_state(
    state: Mapping[str, Any], names: Sequence[str | None], slots: Mapping[str, Slot]
) -> dict[str, Any]:
    """The state dict of a scheduler with an entry for each of the user's own groups."""
    return reindex_state(state, [indices[0] for indices in by_origin(names, slots)], len(names))


def split_scheduler_state(
    state: Mapping[str, Any], names: Sequence[str | None], slots: Mapping[str, Slot]
) -> dict[str, Any]:
    """The state dict of a scheduler with an entry for each group by component."""
    members = by_origin(names, slots)
    origin = {index: position for position, indices in enumerate(members) for index in indices}
    return reindex_state(state, [origin[index] for index in range(len(names))], len(members))


def _differs(key: str, value: Any, other: Mapping[str, Any]) -> bool:
    if key in (*LISTS, "name"):
        return False
    if isinstance(value, Tensor):
        return not torch.equal(value, other[key])
    return bool(value != other[key])
