"""Tensors that are replaced or removed, followed into param groups and optimizer state."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from structurenet_pl.components import Structure
from structurenet_pl.successors import Successor, continued
from structurenet_pl.surgery.optimizer_state import Moments, carry
from structurenet_pl.surgery.param_groups import LISTS, Slot
from structurenet_pl.surgery.schedulers import reindex, with_nested


def replace_tensors(
    optimizer: Optimizer,
    slots: Mapping[str, Slot],
    successors: Mapping[nn.Parameter, Successor | None],
    moments: Moments,
    structure: Structure,
    holders: Iterable[Any],
) -> tuple[dict[str, Slot], Callable[[], None]]:
    """Put successors in the places of the tensors that they continue, with their state; take out what is gone.

    A group that is left empty goes, unless it is the last piece of one of the user's.

    Args:
        optimizer: Its groups are changed in place.
        slots: What its groups stand for, by name.
        successors: What has become of tensors; None for gone.
        moments: Policy for second moments.
        structure: The structure after the growth.
        holders: What holds lists by group: schedulers, or the optimizer itself.

    Returns:
        What its groups stand for now, and a function that undoes it.
    """
    groups = list(optimizer.param_groups)
    states = list({id(one.state): one.state for one in wrapped(optimizer)}.values())
    parts = [part for holder in holders for part in with_nested(holder)]
    undo = _remember(optimizer, groups, states, parts)
    try:
        for group in groups:
            _replace_in(group, successors, structure)
        for old, successor in successors.items():
            for state in states:
                if (known := state.pop(old, None)) is not None and successor is not None:
                    name = structure.parameter_names.get(successor.tensor, "")
                    if carried := carry(name, known, successor, moments):
                        state[successor.tensor] = carried
        kept, after = _without_empty(groups, slots, structure)
        optimizer.param_groups[:] = [groups[index] for index in kept]
        for part in parts:
            reindex(part, kept, len(groups))
    except BaseException:
        undo()
        raise
    return after, undo


def wrapped(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps."""
    return [optimizer, *(value for value in vars(optimizer).values() if isinstance(value, Optimizer))]


def faces(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, but for wrappers that lack the hooks of a torch optimizer."""
    return [face for face in wrapped(optimizer) if hasattr(face, "_optimizer_state_dict_post_hooks")]


def _replace_in(
    group: dict[str, Any], successors: Mapping[nn.Parameter, Successor | None], structure: Structure
) -> None:
    params: list[Tensor] = []
    names: list[str] = []
    for index, tensor in enumerate(group["params"]):
        if (now := continued(tensor, successors)) is None:
            continue
        params.append(now)
        if "param_names" in group:
            names.append(structure.parameter_names.get(cast(nn.Parameter, now), group["param_names"][index]))
    group["params"] = params
    if "param_names" in group:
        group["param_names"] = names


def _without_empty(
    groups: list[dict[str, Any]], slots: Mapping[str, Slot], structure: Structure
) -> tuple[list[int], dict[str, Slot]]:
    """The indices of the groups that stay, and what they stand for; one for each of the user's stays in any case."""
    full = {slots[group["name"]].origin for group in groups if group["params"] and group.get("name") in slots}
    kept, after = [], {}
    for index, group in enumerate(groups):
        slot = slots.get(group.get("name", ""))
        if slot is not None and not group["params"] and slot.origin in full:
            continue
        kept.append(index)
        if slot is not None:
            full.add(slot.origin)
            owner = next((structure.owner[tensor] for tensor in group["params"] if tensor in structure.owner), None)
            after[slot.name] = replace(slot, component=owner) if owner else slot
    return kept, after


def _remember(
    optimizer: Optimizer, groups: list[dict[str, Any]], states: list[Any], parts: list[Any]
) -> Callable[[], None]:
    lists = [(group, {key: group[key] for key in LISTS if key in group}) for group in groups]
    known = [(state, dict(state)) for state in states]
    attributes = [(part, dict(vars(part))) for part in parts]

    def undo() -> None:
        optimizer.param_groups[:] = groups
        for group, before in lists:
            group.update(before)
        for state, entries in known:
            state.clear()
            state.update(entries)
        for part, before in attributes:
            vars(part).update(before)

    return undo
