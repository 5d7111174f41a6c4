"""How the table of one optimizer grows with the network: pieces, base lrs, and the way back."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from structurenet_pl.learning_rates.base_lrs import BaseLRs
from structurenet_pl.learning_rates.foreign_writes import LastWrite
from structurenet_pl.optim.newborn_tensors import NewbornPiece
from structurenet_pl.optim.param_groups import copy_if_mutable
from structurenet_pl.optim.split_groups import SplitGroups
from structurenet_pl.structure.partition import Structure
from structurenet_pl.structure.tensor_mapping import Successor


class TableGrowth:
    """Adds, replaces and removes pieces together with all that the table keeps by piece.

    Effective lrs are written by the next refresh of the table, when all optimizers have grown.

    Args:
        groups: The pieces and the user's groups.
        base_lrs: The base lrs of the pieces.
        last_write: The lrs that were last written to the pieces.
    """

    def __init__(self, groups: SplitGroups, base_lrs: BaseLRs, last_write: LastWrite) -> None:
        self._groups = groups
        self._base_lrs = base_lrs
        self._last_write = last_write

    def undo_point(self) -> Callable[[], None]:
        """A function that restores the pieces and base lrs of now."""
        restore_groups, lrs = self._groups.undo_point(), dict(self._base_lrs.of_single_pieces)

        def undo() -> None:
            restore_groups()
            self._base_lrs.of_single_pieces = lrs
            self._last_write.forget()

        return undo

    def replace(self, successors: Mapping[nn.Parameter, Successor | None], structure: Structure) -> None:
        """Put the successors of tensors in their places, and remove the tensors that are gone.

        Args:
            successors: The tensor that each tensor has become, None for a tensor that is gone.
            structure: The structure after the growth.
        """
        self._groups.replace(successors, structure)
        for name in self._base_lrs.of_single_pieces.keys() - self._groups.group_infos.keys():
            del self._base_lrs.of_single_pieces[name]  # a later piece of the same name must not inherit it
        self._last_write.forget()

    def add(self, new_pieces: Sequence[NewbornPiece]) -> None:
        """Add pieces with newborn tensors.

        Args:
            new_pieces: The tensors of each new piece, and the piece whose settings and base lr the new piece gets.
        """
        self._groups.add(new_pieces)
        lrs = self._base_lrs.of_single_pieces
        for new in new_pieces:
            if new.template in lrs:
                lrs[new.info.name] = copy_if_mutable(lrs[new.template])
        self._last_write.forget()
