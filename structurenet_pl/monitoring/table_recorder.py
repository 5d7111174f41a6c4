"""Copies changes of the lr tables and of freezing into the record of the run, before each optimizer step."""

from collections.abc import Set as AbstractSet
from typing import Any

from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import product
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.monitoring.table_rows import NEVER, TableRows


class TableRecorder:
    """Adds to a record what changed in the lr tables of a fit; a table without changes costs one comparison.

    Args:
        record: The record of the run.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._frozen: AbstractSet[str] = frozenset()
        self.rows: dict[Optimizer, TableRows] = {}  # as they were recorded last

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the optimizers of this fit."""
        return {**vars(self), "rows": {}}

    def begin_fit(self) -> None:
        """Drop the rows of earlier optimizers: a new fit has new optimizers, and a checkpoint may bring new columns."""
        self.rows = {}

    def record_frozen(self, step: int, names: AbstractSet[str]) -> bool:
        """Record which components are frozen, and return whether that changed."""
        if names == self._frozen:
            return False
        self._frozen = names
        return self._record.add_frozen(step, names)

    def record_lrs(self, driver: Driver, step: int, logged: Optimizer | None) -> None:
        """Record the learning rates of all optimizers before a step of one of them.

        Args:
            driver: The driver, which holds the tables.
            step: Number of optimizer steps before it.
            logged: The optimizer that takes the step, if the step is logged: only then its factors that need gradients
                are recorded, because they change at every step.
        """
        self._record.end_step = max(self._record.end_step, step + 1)
        for optimizer, table in driver.tables.items():
            self._record_table(driver, optimizer, table, step, optimizer is logged)

    def _record_table(self, driver: Driver, optimizer: Optimizer, table: LRTable, step: int, logged: bool) -> None:
        rows, matrix = self.rows.get(optimizer), table.matrix
        # a table makes a new list of names whenever its rows change, so identity is enough
        if rows is None or rows.names is not matrix.piece_names:
            rows = self.rows[optimizer] = TableRows.of(table, driver, self._record, step)
        elif rows.version == table.version:
            return
        # looked at before the call, to spare a run in which no cohort differs the call
        elif (matrix.slow or rows.cohorts is not matrix.cohorts) and rows.show_other_cohorts_than(matrix):
            rows = self.rows[optimizer] = TableRows.of(table, driver, self._record, step)
        if rows.version == NEVER and rows.by_cohort and self._frozen:
            self._record.add_frozen(step, self._frozen)  # a new cohort of a frozen component is frozen, too
        rows.version, rows.cohorts = table.version, matrix.cohorts
        products = matrix.every_product[rows.factor_rows]
        if rows.gradient_factors.size:
            factors = matrix.every_value[rows.factor_rows]
            if logged or rows.last_logged is None:
                rows.last_logged = factors[:, rows.gradient_factors]
            factors[:, rows.gradient_factors] = rows.last_logged
            products = product(factors)
        self._record.add_lrs(step, rows.columns, rows.base_lrs(), products)
