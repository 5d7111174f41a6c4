"""Finds lrs that somebody else than the table has written to param groups, and warns about them."""

from collections.abc import Callable, Sequence
from operator import itemgetter, methodcaller
from typing import Any, cast
from weakref import ref

from torch.optim import Optimizer

from structurenet_pl.lightning import rank_zero_warn
from structurenet_pl.optim.group_settings import Stamp
from structurenet_pl.optim.param_groups import Group
from structurenet_pl.optim.split_groups import SplitGroups

PLAIN_LR_TYPES = {float, int, type(None)}


class LRStamps:
    """The lrs that some groups had at one time, to find the lrs that have been written since.

    Args:
        lrs: The lr of each group, None for a group without one.
    """

    def __init__(self, lrs: list[Any]) -> None:
        self.lrs = lrs
        types = set(map(type, lrs))
        self.are_numbers = types <= {float, int}
        # numbers need no stamps: equal numbers count as not written, and nobody can change a number in place
        self._stamps = None if types <= PLAIN_LR_TYPES else [Stamp.of(lr) for lr in lrs]
        # mapped in C: a step makes no Python call per group. itemgetter is five times as fast, but raises without an lr
        self._lr_of: Callable[[Group], Any] = methodcaller("get", "lr") if type(None) in types else itemgetter("lr")

    def match(self, groups: Sequence[Group]) -> bool:
        """Whether there are as many groups as then, and nobody has written their lrs since.

        In a step in which nothing has changed, this is the only cost that grows with the number of groups.
        """
        if self._stamps is None:
            return list(map(self._lr_of, groups)) == self.lrs
        return len(groups) == len(self.lrs) and not self.changed(groups)

    def changed(self, groups: Sequence[Group]) -> list[int]:
        """The positions of the groups whose lr has been written; writing the same value does not count."""
        if self._stamps is None and self.match(groups):
            return []
        stamps = self._stamps or [Stamp(lr, 0, lr) for lr in self.lrs]
        pairs = zip(groups, stamps, strict=False)  # somebody may have added groups
        return [index for index, (group, stamp) in enumerate(pairs) if not stamp.matches(group.get("lr"))]


class LastWrite:
    """The lrs that the table has written last, and whether somebody else has written to pieces since.

    Args:
        groups: The pieces and the user's groups.
    """

    def __init__(self, groups: SplitGroups) -> None:
        self.pieces_changed = True  # since the last write: pieces have been added or removed, so rows do not match
        self._optimizer = ref(groups.optimizer)  # not groups.optimizer: a property costs a Python call in each step
        self._stamps = LRStamps([])

    @property
    def lrs(self) -> list[Any]:
        """The effective lr of each piece, None for a piece without one."""
        return self._stamps.lrs

    def record(self, lrs: list[Any]) -> None:
        """Remember the lrs that the table has just written.

        Args:
            lrs: The lr of each piece.
        """
        self.pieces_changed, self._stamps = False, LRStamps(lrs)

    def forget(self) -> None:
        """Forget the lrs, because pieces have been added or removed."""
        self.pieces_changed, self._stamps = True, LRStamps([])

    def is_untouched(self) -> bool:
        """Whether nobody has written an lr to a piece since, and pieces are still the same."""
        return not self.pieces_changed and self._stamps.match(cast(Optimizer, self._optimizer()).param_groups)

    def rows_written_since(self) -> list[int]:
        """The rows of the pieces whose lr somebody else has written."""
        return self._stamps.changed(cast(Optimizer, self._optimizer()).param_groups)


class ForeignWriteWarning:
    """Warns once per optimizer that an lr from outside is likely to be meant otherwise."""

    def __init__(self) -> None:
        self.given = False

    def warn_if_misleading(
        self, written: Sequence[Group], acted_on: Sequence[Group], groups: Sequence[Sequence[Group]]
    ) -> None:
        """Warn of a write that reaches a part of a user's group only, or that a factor multiplies.

        Args:
            written: The pieces whose lr was written.
            acted_on: The pieces among them with a factor that is not 1.
            groups: The pieces of each of the user's groups.
        """
        pieces = [piece["name"] for split in groups for piece in split]
        names = [piece["name"] for piece in written]
        first, rest = pieces[: len(groups)], [name for name in pieces if name not in names]
        in_part = any(0 < sum(piece["name"] in names for piece in split) < len(split) for split in groups)
        # a loop over as many groups as the user made, written for the unsplit optimizer, reaches the first pieces
        if in_part and set(names) <= set(first):
            self._warn(
                f"the lr of {', '.join(map(repr, names))} was set from outside, but not that of {rest}: your "
                f"{len(groups)} param group(s) are split by component. If they were meant as a whole, write to all of "
                "optimizer.param_groups, or to the groups that you made, which stay alive."
            )
        elif acted_on:
            self._warn(
                f"the lr of param group {acted_on[0]['name']!r} was set to {float(acted_on[0]['lr']):g} from outside. "
                "It is taken as the new base lr, and the factors multiply it. If it was meant to change what stood "
                "there (`group['lr'] *= ...`), write an LRFactor instead."
            )

    def warn_of_write_in_step(self, piece: Group, optimizer: str) -> None:
        """Warn that an lr was written in the step itself, over the effective lr.

        Args:
            piece: A piece whose lr was written.
            optimizer: The class that made the update.
        """
        self._warn(
            f"the lr of param group {piece['name']!r} was written during the step, after the factors had been applied, "
            f"by {optimizer}.step() itself or by a hook on it: the factors do not act on this lr in this step. Write "
            "it in an LR scheduler, or in optimizer_step or on_train_batch_start of the module."
        )

    def _warn(self, message: str) -> None:
        if not self.given:
            self.given = True
            rank_zero_warn(message)
