"""Copies changes of the lr tables and of freezing into the record of the run, before each optimizer step."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factor_matrix import FactorMatrix
from structurenet_pl.learning_rates.factors import product
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.optim.param_groups import leading_groups

NEVER = -1  # version of a table that has not been recorded yet


class TableRecorder:
    """Adds to a record what changed in the lr tables of a fit; a table without changes costs one comparison.

    Args:
        record: The record of the run.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._frozen: AbstractSet[str] = frozenset()
        self._rows: dict[Optimizer, _RecordedRows] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave out the optimizers of this fit."""
        return {**vars(self), "_rows": {}}

    def begin_fit(self) -> None:
        """Drop the rows of earlier optimizers: a new fit has new optimizers, and a checkpoint may bring new columns."""
        self._rows = {}

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
        rows, matrix = self._rows.get(optimizer), table.matrix
        # a table makes a new list of names whenever its rows change, so identity is enough
        if rows is None or rows.names is not matrix.piece_names:
            rows = self._rows[optimizer] = _RecordedRows.of(table, driver, self._record, step)
        elif rows.version == table.version:
            return
        # looked at before the call, to spare a run in which no cohort differs the call
        elif (matrix.slow or rows.cohorts is not matrix.cohorts) and rows.show_other_cohorts_than(matrix):
            rows = self._rows[optimizer] = _RecordedRows.of(table, driver, self._record, step)
        if rows.version == NEVER and rows.by_cohort and self._frozen:
            self._record.add_frozen(step, self._frozen)  # a new cohort of a frozen component is frozen, too
        rows.version, rows.cohorts = table.version, matrix.cohorts
        factors = matrix.every_value[rows.factor_rows]
        if rows.gradient_factors.size:
            if logged or rows.last_logged is None:
                rows.last_logged = factors[:, rows.gradient_factors]
            factors[:, rows.gradient_factors] = rows.last_logged
        bases = table.base_lrs.of_pieces()
        self._record.add_lrs(step, rows.columns, np.array([float(bases[row]) for row in rows.rows]), product(factors))


@dataclass
class _RecordedRows:
    """The rows of an lr table that stand for components or cohorts, and their columns in the record.

    Args:
        names: The list of names of all rows of the table, compared by identity.
        cohorts: The cohorts of the rows of the table.
        by_cohort: Names of the components whose cohorts are recorded.
        rows: Rows of the table.
        factor_rows: Rows of the matrix of factors.
        columns: Columns of the record.
        gradient_factors: Columns of the table with factors that need gradients.
        last_logged: Values of these factors at the last logged step.
        version: Version of the table that was recorded last.
    """

    names: list[str]
    cohorts: Mapping[int, Mapping[int, int]]
    by_cohort: AbstractSet[str]
    rows: list[int]
    factor_rows: list[int]
    columns: NDArray[np.intp]
    gradient_factors: NDArray[np.intp]
    last_logged: NDArray[np.float64] | None = None
    version: int = NEVER

    @classmethod
    def of(cls, table: LRTable, driver: Driver, record: RunRecord, step: int) -> "_RecordedRows":
        matrix, leads = table.matrix, leading_groups(table.groups.group_infos.values())
        leading_rows = {
            name: matrix.piece_names.index(leads[name]) for name in driver.structure.components if name in leads
        }
        # None: a group without an lr
        leading_rows = {name: row for name, row in leading_rows.items() if table.lrs[row] is not None}
        shown = record.shown_by_cohort
        by_cohort = matrix.differing | {name for name in leading_rows if record.title_of(name) in shown}
        rows: list[int] = []
        factor_rows: list[int] = []
        cohorts: dict[str, list[int | None]] = {}
        for name, row in leading_rows.items():
            born = driver.structure.components[name].born.generation
            row_of = matrix.cohorts.get(row, {born: row})
            if name in by_cohort:
                cohorts[name] = [None if generation == born else generation for generation in row_of]
            else:
                row_of = {born: next(iter(row_of.values()))}  # all cohorts have one product
            rows += [row] * len(row_of)
            factor_rows += row_of.values()
        needing = [name for name, factor in driver.factors.items() if factor.needs_gradients]
        return cls(
            names=matrix.piece_names,
            cohorts=matrix.cohorts,
            by_cohort=by_cohort,
            rows=rows,
            factor_rows=factor_rows,
            columns=record.columns_of(step, list(leading_rows), cohorts),
            gradient_factors=np.array([driver.factors.order[name] for name in needing], int),
        )

    def show_other_cohorts_than(self, matrix: FactorMatrix) -> bool:
        """Whether cohorts were added or removed, or differ for the first time."""
        return self.cohorts != matrix.cohorts or bool(matrix.differing - self.by_cohort)
