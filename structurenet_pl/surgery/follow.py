"""Optimizers and schedulers follow a growth event, all of them or none."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer

from structurenet_pl.board import Board
from structurenet_pl.components import Structure
from structurenet_pl.surgery.param_groups import add_groups, audit, count_places, place_newborn


def follow_growth(
    boards: Mapping[Optimizer, Board],
    schedulers: Mapping[Optimizer, Sequence[Any]],
    structure: Structure,
    born: Sequence[str],
    like: str | None,
    split_1d: bool,
) -> None:
    """Take newborn components into the optimizers; if that fails, leave optimizers and schedulers as they were.

    Args:
        boards: The writer of lrs for each optimizer.
        schedulers: What holds lists by group, for each optimizer.
        structure: The structure after the growth.
        born: Names of the newborn components.
        like: Name of the component whose groups they join, None for the nearest.
        split_1d: Whether one-dimensional tensors get groups of their own.
    """
    slots = {optimizer: board.slots for optimizer, board in boards.items()}
    joining = place_newborn(slots, structure, born, like, split_1d)
    expected = count_places(boards)
    expected.update(tensor for component in born for tensor in structure.parameters[component].values())
    with ExitStack() as undo:
        for optimizer, newcomers in joining.items():
            board = boards[optimizer]
            with board.base_lrs():
                undo.callback(board.__setattr__, "slots", board.slots)
                undo.callback(add_groups(optimizer, board.slots, newcomers, schedulers[optimizer]))
                board.slots = board.slots | {new.slot.name: new.slot for new in newcomers}
        audit(boards, expected)
        undo.pop_all()
