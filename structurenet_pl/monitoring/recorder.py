"""What the tables hold goes into the history of the run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import product
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.optim.param_groups import leading_groups


class Recorder:
    """Takes into a history what has moved in the tables of a fit.

    Args:
        history: The history of the run.
    """

    def __init__(self, history: RunRecord) -> None:
        self._history = history
        self._rows: dict[Optimizer, _Rows] = {}

    def record(self, driver: Driver, titled: Mapping[str, str], step: int, logged: Optimizer | None) -> None:
        """Take in what stands in all optimizers at a step of one of them.

        Args:
            driver: What holds the tables.
            titled: Title of each component by name.
            step: Optimizer steps before it.
            logged: The optimizer that takes the step, if that is written to the logs: then its factors that go by
                gradients count, which move all the time.
        """
        self._history.end = max(self._history.end, step + 1)
        for optimizer, table in driver.tables.items():
            self._take(driver, titled, optimizer, table, step, optimizer is logged)

    def _take(
        self,
        driver: Driver,
        titled: Mapping[str, str],
        optimizer: Optimizer,
        table: LRTable,
        step: int,
        logged: bool,
    ) -> None:
        rows = self._rows.get(optimizer)
        if rows is None or rows.names is not table.matrix.piece_names:
            rows = self._rows[optimizer] = _Rows.of(table, driver, titled, self._history, step)
        elif rows.version == table.version:
            return
        rows.version = table.version
        factors = table.matrix.values[rows.rows]
        if rows.by_gradients.size:
            if logged or rows.held is None:
                rows.held = factors[:, rows.by_gradients]
            factors[:, rows.by_gradients] = rows.held
        bases = table.base_lrs.of_pieces()
        self._history.add(step, rows.columns, np.array([float(bases[row]) for row in rows.rows]), product(factors))


@dataclass
class _Rows:
    """The rows of a table that speak for components, and the columns of these in the history.

    Args:
        names: The names of all rows, to see whether they are still the same.
        rows: Rows of the table.
        columns: Columns of the history.
        by_gradients: Columns of the table with factors that go by gradients.
        held: Their values when they were last logged.
        version: The version of the table that was last taken in.
    """

    names: list[str]
    rows: list[int]
    columns: NDArray[np.intp]
    by_gradients: NDArray[np.intp]
    held: NDArray[np.float64] | None = None
    version: int = -1

    @classmethod
    def of(cls, table: LRTable, driver: Driver, titled: Mapping[str, str], history: RunRecord, step: int) -> "_Rows":
        leads = leading_groups(table.groups.group_infos.values())
        found = [
            (name, table.matrix.piece_names.index(leads[name])) for name in driver.structure.components if name in leads
        ]
        found = [(name, row) for name, row in found if table.lrs[row] is not None]
        return cls(
            table.matrix.piece_names,
            [row for _, row in found],
            history.columns(step, [titled.get(name, name) for name, _ in found]),
            np.array([driver.factors.order[name] for name, one in driver.factors.items() if one.needs_gradients], int),
        )
