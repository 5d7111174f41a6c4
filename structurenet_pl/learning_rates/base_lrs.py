"""The base lr of each piece of an optimizer, written by a scheduler, by the user, or by a loaded state."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from structurenet_pl.learning_rates.foreign_writes import ForeignWriteWarning, LastWrite, LRStamps
from structurenet_pl.optim.group_settings import settings_equal, write_setting
from structurenet_pl.optim.param_groups import Group, copy_if_mutable
from structurenet_pl.optim.split_groups import SplitGroups


class BaseLRs:
    """The base lr of a piece is the lr of the user's group, unless somebody has written to that piece alone.

    An lr that is written to all pieces of a group alike is written to the user's group, too, and schedulers go on from
    there. An lr that is written to single pieces is their base lr until the lr of the user's group changes.

    Args:
        groups: The pieces and the user's groups behind them.
        last_write: The lrs that the table has written.
    """

    def __init__(self, groups: SplitGroups, last_write: LastWrite) -> None:
        self.of_single_pieces: dict[str, float | Tensor] = {}  # by name of the piece; the user's group has another lr
        self.warning = ForeignWriteWarning()
        self._groups = groups
        self._last_write = last_write
        self.record_user_lrs()

    def of_pieces(self) -> list[Any]:
        """The base lr of each piece, None for a piece without one."""
        lrs = [group.get("lr") for group, pieces in self._groups for _ in pieces]
        if self.of_single_pieces:
            lrs = [self.of_single_pieces.get(piece["name"], lr) for piece, lr in zip(self._pieces, lrs, strict=True)]
        return lrs

    def as_vector(self) -> NDArray[np.float64] | None:
        """The base lrs of pieces, as recorded; None if some are no numbers, or single pieces have others."""
        if self.of_single_pieces or not self._user_stamps.are_numbers:
            return None
        sizes = list(map(len, self._groups.pieces_by_group))
        return np.repeat(np.array(self._user_stamps.lrs, dtype=np.float64), sizes)

    def user_lrs_are_untouched(self) -> bool:
        """Whether nobody has written an lr to the user's groups, or added a group, since they were recorded."""
        return self._user_stamps.match(self._groups.user)

    def record_user_lrs(self) -> None:
        """Remember the lrs of the user's groups: ``collect_writes`` reports changes from these."""
        self._user_stamps = LRStamps([group.get("lr") for group in self._groups.user])

    def collect_writes(self, product: NDArray[np.float64]) -> bool:
        """Turn lrs that somebody else has written into base lrs; whether there were any.

        Args:
            product: The product of the factors of each piece.
        """
        pieces, written = self._pieces, self._last_write.rows_written_since()
        if not (written or self.of_single_pieces):  # a shortcut for schedulers, which move lrs in every step
            return not self.user_lrs_are_untouched()
        changed_groups = set(self._user_stamps.changed(self._groups.user))
        if written:
            acted_on = [pieces[row] for row in written if product[row] != 1]
            self.warning.warn_if_misleading([pieces[row] for row in written], acted_on, self._groups.pieces_by_group)
        if not (written or changed_groups):
            return False
        end = 0  # the pieces of one group follow each other in the optimizer
        for origin, (group, split) in enumerate(self._groups):
            start, end = end, end + len(split)
            news = [pieces[row] for row in written if start <= row < end]
            alike = bool(news) and all(settings_equal(piece["lr"], news[0]["lr"]) for piece in split)
            if alike:
                write_setting(group, "lr", news[0]["lr"])
            # a new lr of the group ends the exceptions from before, but not those that were written along with it
            if alike or origin in changed_groups:
                for piece in split:
                    self.of_single_pieces.pop(piece["name"], None)
            if not alike:
                self.of_single_pieces |= {piece["name"]: copy_if_mutable(piece["lr"]) for piece in news}
        return True

    @property
    def _pieces(self) -> list[Group]:
        """All pieces, in the order of the optimizer."""
        return self._groups.optimizer.param_groups
