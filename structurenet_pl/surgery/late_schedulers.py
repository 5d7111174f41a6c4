"""Schedulers that were made in mid-fit, on pieces and effective lrs."""

from collections.abc import Callable, Iterable
from typing import Any

from structurenet_pl.surgery.param_groups import Group, settings
from structurenet_pl.surgery.split_groups import SplitGroups


def adapt(parts: Iterable[object], groups: SplitGroups, as_base: Callable[[Group, Any], Any]) -> None:
    """Have a scheduler that was made on pieces be one that was made on the user's groups.

    Its lists with an entry for each piece keep that of the first piece of each group, and what was read from the lr of
    a piece becomes its base lr. What it has written to all pieces of a group is written to the group.

    Args:
        parts: The scheduler and the objects in it.
        groups: The pieces and the user's groups.
        as_base: The base lr of a piece, if a value was read from its lr, else the value.
    """
    groups.adopt()
    pieces = [piece for some in groups.pieces for piece in some]
    first = [index for index, piece in enumerate(pieces) if any(piece is some[0] for some in groups.pieces)]
    for group, some in groups:
        for piece in some:
            piece.update({key: as_base(piece, piece[key]) for key in settings(piece).keys() - group.keys()})
    groups.settings.collect()
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, list | tuple) and len(value) == len(pieces):
                vars(part)[name] = type(value)(as_base(pieces[index], value[index]) for index in first)
