"""The rows of an lr table that stand for components, or for cohorts of components, in records and logs."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factor_matrix import FactorMatrix
from structurenet_pl.learning_rates.factors import NamesStrata
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.learning_rates.moment import Moment
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.monitoring.series import Vector
from structurenet_pl.optim.param_groups import leading_groups
from structurenet_pl.structure.events import Clock, Component
from structurenet_pl.structure.partition import Structure

NEVER = -1  # version of a table that has not been recorded yet


@dataclass(frozen=True)
class Facts:
    """What a log says of components beside numbers of the table, and what moves as they age.

    Args:
        structure: The structure that they belong to.
        clock: The time; without steps, unless strata are counted in steps.
        ages: Their ages in epochs.
        stratum_numbers: The numbers of their strata; None without a stratum.
        parts: The part of the network that each belongs to: its stratum, else its role, else ``"others"``.
    """

    structure: Structure
    clock: Clock
    ages: list[int]
    stratum_numbers: list[int | None]
    parts: list[str]


NO_FACTS = Facts(Structure({}, {}, {}, {}), Clock(), [], [], [])


@dataclass
class TableRows:
    """The rows of an lr table that stand for components or cohorts, and their columns in the record.

    Args:
        table: The table.
        names: The list of names of all rows of the table, compared by identity.
        cohorts: The cohorts of the rows of the table.
        by_cohort: Names of the components whose cohorts are recorded.
        stands_for: Name of the component, and number of the growth event that added the cohort, None for the first
            entries and for a whole component.
        titles: Their titles.
        rows: Rows of the table.
        factor_rows: Rows of the matrix of factors.
        columns: Columns of the record.
        gradient_factors: Columns of the table with factors that need gradients.
        decays: The factors that name strata.
        last_logged: Values of these factors at the last logged step.
        version: Version of the table that was recorded last.
    """

    table: LRTable
    names: list[str]
    cohorts: Mapping[int, Mapping[int, int]]
    by_cohort: AbstractSet[str]
    stands_for: list[tuple[str, int | None]]
    titles: list[str]
    rows: NDArray[np.intp]
    factor_rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    gradient_factors: NDArray[np.intp]
    decays: list[NamesStrata]
    last_logged: Vector | None = None
    version: int = NEVER
    facts: Facts = NO_FACTS  # of the last logged step

    @classmethod
    def of(cls, table: LRTable, driver: Driver, record: RunRecord, step: int) -> "TableRows":
        """The rows of a table, in order of depth, with new columns of the record from a step on."""
        matrix, leads = table.matrix, leading_groups(table.groups.group_infos.values())
        row_of_name = {name: row for row, name in enumerate(matrix.piece_names)}
        leading_rows = {name: row_of_name[leads[name]] for name in driver.structure.components if name in leads}
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
        columns = record.columns_of(step, list(leading_rows), cohorts)
        needing = [name for name, factor in driver.factors.items() if factor.needs_gradients]
        return cls(
            table=table,
            names=matrix.piece_names,
            cohorts=matrix.cohorts,
            by_cohort=by_cohort,
            stands_for=[(name, cohort) for name in leading_rows for cohort in cohorts.get(name, (None,))],
            titles=record.titles_at(columns),
            rows=np.array(rows, dtype=np.intp),
            factor_rows=np.array(factor_rows, dtype=np.intp),
            columns=columns,
            gradient_factors=np.array([driver.factors.order[name] for name in needing], int),
            decays=[factor for factor in driver.factors.values() if isinstance(factor, NamesStrata)],
        )

    def show_other_cohorts_than(self, matrix: FactorMatrix) -> bool:
        """Whether cohorts were added or removed, or differ for the first time."""
        return self.cohorts != matrix.cohorts or bool(matrix.differing - self.by_cohort)

    def base_lrs(self) -> Vector:
        """The lrs that optimizer and scheduler alone would give."""
        bases = self.table.base_lrs.of_pieces()
        return np.array([float(bases[row]) for row in self.rows.tolist()])

    def lrs(self) -> Vector:
        """The effective lrs; in the optimizer stand those of the fastest cohorts."""
        matrix, lrs = self.table.matrix, self.table.lrs
        own = matrix.every_product[self.factor_rows]
        written = np.array([float(lrs[row]) for row in self.rows.tolist()])
        # a tensor may be of less precision than the product, so an lr is shown as it stands
        return np.where(own == matrix.product[self.rows], written, self.base_lrs() * own)

    def update_facts(self, now: Moment, structure: Structure) -> None:
        """Bring the facts up to date."""
        clock = now.clock if any(decay.unit == "step" for decay in self.decays) else now.clock.truncated_to("epoch")
        if self.facts.structure is structure and self.facts.clock == clock:
            return
        components = self._components(structure)
        decays = [next((decay for decay in self.decays if decay.acts_on(one)), None) for one in components]
        pairs = list(zip(components, decays, strict=True))
        self.facts = Facts(
            structure=structure,
            clock=clock,
            ages=[now.age(component).epoch for component in components],
            stratum_numbers=[decay.stratum_number(component, now) if decay else None for component, decay in pairs],
            parts=[
                (decay and decay.stratum(component, now)) or component.role or "others" for component, decay in pairs
            ],
        )

    def _components(self, structure: Structure) -> list[Component]:
        """The components; a cohort is one with a birth and a role of its own."""
        cohorts: dict[tuple[str, int | None], Component] = {
            (name, one.born.generation): one for name in self.by_cohort for one in structure.cohorts.get(name, ())
        }
        components = structure.components
        return [cohorts.get((name, cohort), components[name]) for name, cohort in self.stands_for]
