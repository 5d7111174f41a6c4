"""Param groups in checkpoints: always the user's groups, so that a run with or without pieces can load them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import nn
from torch.optim import Optimizer

from structurenet_pl.optim.group_settings import write_setting
from structurenet_pl.optim.param_groups import (
    OUTSIDE,
    PER_TENSOR_KEYS,
    Group,
    copy_if_mutable,
    make_piece,
    settings_of,
)
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.optim.wrappers import set_groups
from structurenet_pl.structure.partition import Structure


def state_with_user_groups(groups: SplitGroups, optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of an optimizer with the user's groups in place of the pieces.

    Args:
        groups: The pieces and the user's groups.
        optimizer: The optimizer, or one inside it.
        state: Its state dict with pieces. The numbers of parameters stay: pieces keep the order of the tensors.
    """
    groups.settings.collect()
    numbers = iter([number for group in state["param_groups"] for number in group["params"]])
    return {**state, "param_groups": [_numbered(group, numbers) for group in groups.lists_of(optimizer).user]}


def state_with_pieces(
    groups: SplitGroups,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    piece_settings: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The state dict of an optimizer with pieces in place of the user's groups.

    Args:
        groups: The pieces and the user's groups.
        optimizer: The optimizer that will load it, or one inside it.
        state: Its state dict with the user's groups.
        piece_settings: Settings of single pieces, by name of the piece.

    Raises:
        ValueError: If the groups of the state dict have other sizes than the user's groups in this run.
    """
    saved_groups, user_groups = state["param_groups"], groups.lists_of(optimizer).user
    saved_sizes, sizes = ([len(group["params"]) for group in some] for some in (saved_groups, user_groups))
    if saved_sizes != sizes:
        raise ValueError(
            f"the optimizer of the checkpoint has param groups of {saved_sizes} tensors, this run's "
            f"configure_optimizers makes groups of {sizes}. Resume with the module and the configure_optimizers "
            "that wrote it."
        )
    pieces_of = {id(group): pieces for group, pieces in groups}
    split: list[Group] = []
    for saved, group in zip(saved_groups, user_groups, strict=True):
        rest = {key: iter(saved[key]) for key in PER_TENSOR_KEYS if key in saved}
        for piece in pieces_of.get(id(group), [group]):
            lists = {key: list(islice(items, len(piece["params"]))) for key, items in rest.items()}
            split.append(make_piece(saved | piece_settings.get(piece["name"], {}), lists, piece["name"]))
    return {**state, "param_groups": split}


def install_loaded_groups(groups: SplitGroups, optimizer: Optimizer, saved_groups: Sequence[Mapping[str, Any]]) -> None:
    """Move the values that ``load_state_dict`` has loaded into the pieces and the user's groups that exist already.

    torch replaces the list and the dicts of the groups when it loads. Here they stay the same objects: schedulers and
    the user's code hold references to them.

    Args:
        groups: The pieces and the user's groups.
        optimizer: The optimizer that has loaded a state dict, or one inside it.
        saved_groups: The user's groups in the state dict.
    """
    user_groups, pieces = groups.lists_of(optimizer)
    for piece, loaded in zip(pieces, list(optimizer.param_groups), strict=True):
        if loaded is not piece:
            piece.clear()
            piece.update(loaded)
    set_groups(optimizer, pieces)
    for group, saved in zip(user_groups, saved_groups, strict=True):
        for key in settings_of(group).keys() - saved.keys():
            del group[key]
        for key, value in settings_of(saved).items():
            write_setting(group, key, value)
    groups.settings.mark_passed_on()


def save_layout(groups: Iterable[Group], names: Mapping[nn.Parameter, str]) -> list[list[str | None]]:
    """The names of the parameters in each of the user's groups, None for a tensor that is not the module's."""
    return [[names.get(tensor) for tensor in group["params"]] for group in groups]


def restore_group_order(optimizer: Optimizer, structure: Structure, layout: Sequence[Sequence[str | None]]) -> None:
    """Put the parameters into the user's groups in the order of a checkpoint, newborn parameters included.

    Args:
        optimizer: The optimizer as ``configure_optimizers`` has made it.
        structure: The components of the module.
        layout: The return value of ``save_layout`` when the checkpoint was written.

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
    # a newborn parameter may be missing in this run's optimizer: configure_optimizers need not know it, and it is added
    missing, extra = sorted(saved - present - newborn), sorted(present - saved)
    if missing or extra or len(layout) != len(optimizer.param_groups):
        raise ValueError(
            f"the checkpoint's optimizer has {len(layout)} param groups, this run's optimizer has "
            f"{len(optimizer.param_groups)}. Only the checkpoint's holds {missing}, only this run's holds {extra}. "
            "Resume with the module and the configure_optimizers that wrote the checkpoint. Parameters that were born "
            "outside of a fit, and groups that a callback adds during the fit, have no state to resume from."
        )
    for group, names in zip(optimizer.param_groups, layout, strict=True):
        outside = iter([tensor for tensor in group["params"] if tensor not in structure.parameter_names])
        group["params"][:] = [next(outside) if name is None else parameters[name] for name in names]
        if "param_names" in group:
            group["param_names"][:] = [name or OUTSIDE for name in names]


def _numbered(group: Group, numbers: Iterator[int]) -> Group:
    """A group as a state dict holds it, with the numbers of the parameters in place of the tensors."""
    rest = {key: copy_if_mutable(value) for key, value in group.items() if key != "params"}
    return rest | {"params": list(islice(numbers, len(group["params"])))}
