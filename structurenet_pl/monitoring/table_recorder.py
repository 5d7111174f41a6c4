"""Copies changes of the lr tables and of freezing into the record of the run, before each optimizer step."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import product
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.optim.param_groups import leading_groups


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
        rows = self._rows.get(optimizer)
        # a table makes a new list of names whenever its rows change, so identity is enough
        if rows is None or rows.names is not table.matrix.piece_names:
            rows = self._rows[optimizer] = _RecordedRows.of(table, driver, self._record, step)
        elif rows.version == table.version:
            return
        rows.version = table.version
        factors = table.matrix.values[rows.rows]
        if rows.gradient_factors.size:
            if logged or rows.last_logged is None:
                rows.last_logged = factors[:, rows.gradient_factors]
            factors[:, rows.gradient_factors] = rows.last_logged
        bases = table.base_lrs.of_pieces()
        self._record.add_lrs(step, rows.columns, np.array([float(bases[row]) for row in rows.rows]), product(factors))


@dataclass
class _RecordedRows:
    """The rows of an lr table that stand for components, and their columns in the record.

    Args:
        names: The list of names of all rows of the table, compared by identity.
        rows: Rows of the table.
        columns: Columns of the record.
        gradient_factors: Columns of the table with factors that need gradients.
        last_logged: Values of these factors at the last logged step.
        version: Version of the table that was recorded last.
    """

    names: list[str]
    rows: list[int]
    columns: NDArray[np.intp]
    gradient_factors: NDArray[np.intp]
    last_logged: NDArray[np.float64] | None = None
    version: int = -1

    @classmethod
    def of(cls, table: LRTable, driver: Driver, record: RunRecord, step: int) -> "_RecordedRows":
        leads = leading_groups(table.groups.group_infos.values())
        rows = {
            name: table.matrix.piece_names.index(leads[name]) for name in driver.structure.components if name in leads
        }
        rows = {name: row for name, row in rows.items() if table.lrs[row] is not None}  # None: a group without an lr
        needing = [name for name, factor in driver.factors.items() if factor.needs_gradients]
        return cls(
            names=table.matrix.piece_names,
            rows=list(rows.values()),
            columns=record.columns_of(step, list(rows)),
            gradient_factors=np.array([driver.factors.order[name] for name in needing], int),
        )
