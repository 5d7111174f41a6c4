"""The base lrs of the pieces of an optimizer, whoever wrote them."""

from collections.abc import Sequence
from operator import methodcaller
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from structurenet_pl.learning_rates.foreign_writes import ForeignWrites
from structurenet_pl.optim.group_settings import Stamp, settings_equal, write_setting
from structurenet_pl.optim.param_groups import Group, copy_if_mutable
from structurenet_pl.optim.split_groups import SplitGroups

NUMBERS = {float, int, type(None)}


class BaseLRs:
    """The base lr of a piece is that of the user's group, or what somebody has written to the piece alone.

    What is written to all pieces of a group alike is written to the group, too, and schedulers go on from there. What
    is written to single pieces is their base lr until that of the group changes.

    Args:
        groups: The pieces and the user's groups behind them.
    """

    def __init__(self, groups: SplitGroups) -> None:
        self.own: dict[str, float | Tensor] = {}  # of single pieces, by name
        self.foreign = ForeignWrites()
        self._groups = groups
        self.start()

    @property
    def pieces(self) -> list[Group]:
        """All pieces, in the order of the optimizer."""
        return self._groups.optimizer.param_groups

    def of_pieces(self) -> list[Any]:
        """The base lr of each piece, None where there is none."""
        found = [group.get("lr") for group, pieces in self._groups for _ in pieces]
        if self.own:
            found = [self.own.get(piece["name"], lr) for piece, lr in zip(self.pieces, found, strict=True)]
        return found

    def start(self) -> None:
        """Take the lrs of the user's groups as known."""
        self._seen = Lrs([group.get("lr") for group in self._groups.user])

    def take(self, standing: "Lrs", product: NDArray[np.float64]) -> bool:
        """Take over what somebody has written to pieces or to the user's groups; tell if there was anything.

        Args:
            standing: What we have written to the pieces.
            product: The products of their factors.
        """
        written = standing.changed(self.pieces)
        moved = set(self._seen.changed(self._groups.user))
        if written:
            acted_on = [self.pieces[row] for row in written if product[row] != 1]
            self.foreign.look([self.pieces[row] for row in written], acted_on, self._groups.pieces)
        if not (written or moved):
            return False
        end = 0
        for origin, (group, pieces) in enumerate(self._groups):
            start, end = end, end + len(pieces)
            news = [self.pieces[row] for row in written if start <= row < end]
            alike = bool(news) and all(settings_equal(piece["lr"], news[0]["lr"]) for piece in pieces)
            if alike:
                write_setting(group, "lr", news[0]["lr"])
            if alike or origin in moved:
                for piece in pieces:
                    self.own.pop(piece["name"], None)
            if not alike:
                self.own |= {piece["name"]: copy_if_mutable(piece["lr"]) for piece in news}
        return True


LR_OF = methodcaller("get", "lr")


class Lrs:
    """Lrs that stood in some groups; tells which have been written since.

    Args:
        values: The lr of each group, None where there is none.
    """

    def __init__(self, values: list[Any]) -> None:
        self.values = values
        self._stamps = None if set(map(type, values)) <= NUMBERS else [Stamp.of(lr) for lr in values]

    def stand_in(self, groups: Sequence[Group]) -> bool:
        """Whether nobody has written to these groups; a shortcut, which tensors have to do without."""
        return self._stamps is None and list(map(LR_OF, groups)) == self.values

    def changed(self, groups: Sequence[Group]) -> list[int]:
        """The positions of the groups whose lr has been written; the same value is no write."""
        if self.stand_in(groups):
            return []
        stamps = self._stamps or [Stamp(lr, 0, lr) for lr in self.values]
        pairs = zip(groups, stamps, strict=False)  # somebody may have added groups
        return [index for index, (group, stamp) in enumerate(pairs) if not stamp.matches(group.get("lr"))]
