"""Which tensor stood in which group, in the checkpoint and out of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch.optim import Optimizer

from structurenet_pl.board import Board
from structurenet_pl.components import Structure
from structurenet_pl.surgery.param_groups import Slot, restore_groups, split_groups


def save_layout(board: Board, structure: Structure) -> list[dict[str, Any]]:
    """The groups of an optimizer as plain data: what each stands for, and the names of its tensors."""
    return [
        {
            **asdict(board.slots[group["name"]]),
            "parameters": [structure.parameter_names[tensor] for tensor in group["params"]],
        }
        for group in board.optimizer.param_groups
    ]


def lay_out(
    optimizer: Optimizer,
    structure: Structure,
    saved: Sequence[Mapping[str, Any]] | None,
    split_1d: bool,
    schedulers: Iterable[Any],
) -> list[Slot]:
    """Give the optimizer groups by component: those that :func:`save_layout` saved, else its own, split.

    Raises:
        ValueError: If the saved groups do not hold the parameters of the optimizer.
    """
    if saved is None:
        return split_groups(optimizer, structure, split_1d, schedulers)
    groups = [
        (Slot(**{key: value for key, value in group.items() if key != "parameters"}), group["parameters"])
        for group in saved
    ]
    return restore_groups(optimizer, structure, groups, schedulers)
