"""The factors of the pieces of one optimizer, and their product."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.learning_rates.factors import Factors, Vector, product
from structurenet_pl.optim.split_groups import SplitGroups


class FactorMatrix:
    """A matrix with a row for each piece and a column for each factor.

    :class:`Factors` holds a vector for each factor, with an entry for each component. A component may have several
    pieces, so :meth:`update` copies the entry of its component into the row of each piece.

    Args:
        factors: The factors, as they were last evaluated.
        groups: The pieces and the components that they belong to.
    """

    def __init__(self, factors: Factors, groups: SplitGroups) -> None:
        self.piece_names: list[str] = []  # by row; a new list object when rows have changed
        self.values: NDArray[np.float64] = np.ones((0, len(factors)))
        self.product: Vector = np.ones(0)
        self.version = -1  # of the factors that were last read
        self._factors = factors
        self._groups = groups
        self._component_rows: Mapping[str, int] = {}
        self._vectors: dict[str, Vector] = {}  # by label, the vectors that were copied into columns

    def update(self, pieces_changed: bool) -> bool:
        """Copy the factors that have changed; whether any has.

        Args:
            pieces_changed: Whether pieces have been added or removed since the last call.
        """
        # set_components makes a new dict of rows: an entry of a vector may stand for another component by now
        if pieces_changed or self._component_rows is not self._factors.rows:
            self._make_rows()
        elif self.version == self._factors.version:
            return False
        self.version = self._factors.version
        # Factors makes a new vector only if a value has changed, so identity is enough
        changed = [label for label, vector in self._factors.vectors.items() if vector is not self._vectors.get(label)]
        for label in changed:
            self._vectors[label] = self._factors.vectors[label]
            self._set_column(label, self._vectors[label])
        if changed or pieces_changed:
            self.product = product(self.values)
        return bool(changed)

    def set_columns(self, vectors: Mapping[str, Vector]) -> None:
        """Set the factors that need gradients, which :meth:`update` leaves as they are.

        Args:
            vectors: The values for each component, by label of the factor.
        """
        for label, vector in vectors.items():
            self._set_column(label, vector)
        self.product = product(self.values)

    def _make_rows(self) -> None:
        """Make a row for each piece.

        A piece that had a row keeps its values, because factors of gradients are known only before the next update.
        """
        before = dict(zip(self.piece_names, self.values, strict=True))
        infos = [self._groups.group_infos[piece["name"]] for piece in self._groups.optimizer.param_groups]
        names = [info.name for info in infos]
        if names != self.piece_names:
            self.piece_names = names  # the recorder compares the identity of this list
        self.values = np.ones((len(infos), len(self._factors)))
        for row, name in enumerate(names):
            self.values[row] = before.get(name, 1.0)
        self._component_rows = self._factors.rows
        # -1 is the last entry of each vector, which is 1: the factor of tensors that belong to no component
        self._rows = np.array([self._component_rows.get(info.component, -1) for info in infos], dtype=np.intp)
        self._is_1d = np.array([info.is_1d for info in infos], dtype=bool)
        self._vectors.clear()

    def _set_column(self, label: str, vector: Vector) -> None:
        column = vector[self._rows]
        if self._factors[label].skip_1d:
            column[self._is_1d] = 1.0
        self.values[:, self._factors.order[label]] = column
