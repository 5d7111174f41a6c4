"""Schedulers that were made in mid-fit, on pieces and effective lrs."""

from collections.abc import Callable, Iterable
from typing import Any

from structurenet_pl.optim.group_settings import settings_equal
from structurenet_pl.optim.param_groups import Group, settings_of
from structurenet_pl.optim.references import attributes_of, set_attribute
from structurenet_pl.optim.split_groups import SplitGroups


def adapt(parts: Iterable[object], groups: SplitGroups, as_base: Callable[[Group, Any], Any]) -> None:
    """Have a scheduler that was made on pieces be one that was made on the user's groups.

    What it has read from the lr of a piece becomes its base lr. Its lists with an entry for each piece keep one for
    each of the user's groups, if the entries for all pieces of a group are the same by then: others are no lists by
    group. What it has written to all pieces of a group is written to the group.

    Args:
        parts: The scheduler and the objects in it.
        groups: The pieces and the user's groups.
        as_base: The base lr of a piece, if a value was read from its lr, else the value.
    """
    groups.absorb_new_groups()
    pieces = [piece for some in groups.pieces for piece in some]
    for group, some in groups:
        for piece in some:
            piece.update({key: as_base(piece, piece[key]) for key in settings_of(piece).keys() - group.keys()})
    groups.settings.collect()
    for part in parts:
        for name, value in attributes_of(part).items():
            if type(value) in (list, tuple) and len(value) == len(pieces):
                entries = iter([as_base(piece, entry) for piece, entry in zip(pieces, value, strict=True)])
                by_group = [[next(entries) for _ in some] for some in groups.pieces]
                if all(settings_equal(entry, some[0]) for some in by_group for entry in some):
                    set_attribute(part, name, type(value)(some[0] for some in by_group))
