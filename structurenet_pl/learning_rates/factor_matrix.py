"""The factors of the pieces of one optimizer, and their product."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.learning_rates.factors import Factors, Vector, product
from structurenet_pl.optim.split_groups import SplitGroups


class FactorMatrix:
    """A matrix with a row for each piece and a column for each factor.

    ``Factors`` holds a vector for each factor, with an entry for each component. A component may have several
    pieces, so ``update`` copies the entry of its component into the row of each piece.

    A component with cohorts has a row for each cohort. The row of a piece is then that of its fastest cohort, the one
    with the largest product, and the other cohorts have a share of that.

    Args:
        factors: The factors, as they were last evaluated.
        groups: The pieces and the components that they belong to.
    """

    def __init__(self, factors: Factors, groups: SplitGroups) -> None:
        self.piece_names: list[str] = []  # by row; a new list object when rows have changed
        self.values: NDArray[np.float64] = np.ones((0, len(factors)))
        self.product: Vector = np.ones(0)
        self.acts = False  # whether a product is not 1
        self.cohorts: dict[int, dict[int, int]] = {}  # row of a piece -> generation -> row in every_value
        self.slow: dict[int, dict[int, float]] = {}  # row of a piece -> generation -> share of the largest product
        self.every_value: NDArray[np.float64] = self.values  # rows of the pieces, then rows of cohorts
        self.every_product: Vector = self.product
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
        new_rows = pieces_changed or self._component_rows is not self._factors.rows
        if new_rows:
            self._make_rows()
        elif self.version == self._factors.version:
            return False
        self.version = self._factors.version
        # Factors makes a new vector only if a value has changed, so identity is enough
        changed = [label for label, vector in self._factors.vectors.items() if vector is not self._vectors.get(label)]
        for label in changed:
            self._vectors[label] = self._factors.vectors[label]
            self._set_column(label, self._vectors[label])
        if changed or new_rows:
            self._multiply()
        return bool(changed)

    @property
    def differing(self) -> set[str]:
        """Names of the components whose cohorts have different products."""
        return {self._groups.group_infos[self.piece_names[row]].component for row in self.slow}

    def set_columns(self, vectors: Mapping[str, Vector]) -> None:
        """Set the factors that need gradients, which ``update`` leaves as they are.

        Args:
            vectors: The values for each component, by label of the factor.
        """
        for label, vector in vectors.items():
            self._set_column(label, vector)
        self._multiply()

    def _make_rows(self) -> None:
        """Make a row for each piece.

        A piece that had a row keeps its values, because factors of gradients are known only before the next update.
        """
        before = dict(zip(self.piece_names, self.values, strict=True))
        infos = [self._groups.group_infos[piece["name"]] for piece in self._groups.optimizer.param_groups]
        names = [info.name for info in infos]
        if names != self.piece_names:
            self.piece_names = names  # the recorder compares the identity of this list
        self._component_rows = self._factors.rows
        # -1 is the last entry of each vector, which is 1: the factor of tensors that belong to no component
        entries = [self._component_rows.get(info.component, -1) for info in infos]
        is_1d = [info.is_1d for info in infos]
        self.cohorts = {}
        for row, info in enumerate(infos):
            for generation, entry in self._factors.cohort_rows.get(info.component, {}).items():
                self.cohorts.setdefault(row, {})[generation] = len(entries)
                entries.append(entry)
                is_1d.append(info.is_1d)
        self.every_value = np.ones((len(entries), len(self._factors)))
        for row, name in enumerate(names):
            for same in (row, *self.cohorts.get(row, {}).values()):
                self.every_value[same] = before.get(name, 1.0)
        self._rows = np.array(entries, dtype=np.intp)
        self._is_1d = np.array(is_1d, dtype=bool)
        self._vectors.clear()

    def _set_column(self, label: str, vector: Vector) -> None:
        column = vector[self._rows]
        if self._factors[label].skip_1d:
            column[self._is_1d] = 1.0
        self.every_value[:, self._factors.order[label]] = column

    def _multiply(self) -> None:
        """Multiply the factors of each row, and find the fastest cohort of each piece."""
        self.every_product = product(self.every_value)
        n = len(self.piece_names)
        self.values, self.product = self.every_value[:n], self.every_product[:n]
        self.slow, self.acts = {}, bool((self.every_product != 1).any())
        if not self.cohorts:
            return
        self.values, self.product = self.values.copy(), self.product.copy()
        for row, row_of in self.cohorts.items():
            products = {generation: float(self.every_product[cohort]) for generation, cohort in row_of.items()}
            fastest = max(products, key=products.__getitem__)
            self.values[row], self.product[row] = self.every_value[row_of[fastest]], products[fastest]
            # with a largest product of 0 the lr is 0, and no entry moves
            if products[fastest] and len(set(products.values())) > 1:
                self.slow[row] = {one: value / products[fastest] for one, value in products.items()}
