"""Which tensor stood in which group, in the checkpoint and out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from structurenet_pl.board import Board
from structurenet_pl.components import Structure
from structurenet_pl.surgery.param_groups import Slot


def save_layout(board: Board, structure: Structure) -> list[dict[str, Any]]:
    """The groups of an optimizer as plain data: what each stands for, and the names of its tensors."""
    return [
        {
            **asdict(board.slots[group["name"]]),
            "parameters": [structure.parameter_names[tensor] for tensor in group["params"]],
        }
        for group in board.optimizer.param_groups
    ]


def load_layout(saved: Sequence[Mapping[str, Any]]) -> list[tuple[Slot, list[str]]]:
    """What :func:`save_layout` saved."""
    return [
        (Slot(group["name"], group["component"], group["origin"], group["is_1d"]), group["parameters"])
        for group in saved
    ]
