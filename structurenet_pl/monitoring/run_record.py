"""The compressed record of a run: base lr, product of factors and freezing of each component at every step."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.lr_history import LRHistory, growth_mark
from structurenet_pl.monitoring.series import BYTES_PER_ENTRY, SeriesTable, Steps, Vector
from structurenet_pl.structure.events import Component, GrowthEvent, cohort_title, titles

MAX_BYTES = 32_000_000  # bytes, an estimate, of a record in memory and on disk
MAX_BYTES_IN_CHECKPOINT = 950_000  # bytes, an estimate, of a record in a checkpoint
MAX_CELLS_IN_HISTORY = 20_000_000  # numbers (components times steps) in the matrix for pictures
STILL_PRESENT = -1  # in place of the step at which a component was removed


class RunRecord:
    """Base lr, product of factors, and frozen or not, of each component at every step of a run.

    The record stores changes only and survives checkpoints; ``to_history`` unpacks it into an ``LRHistory``. It is
    exact unless it exceeds its limit of bytes: then older steps are thinned, and the note of the history says so. It
    has a column for each component that ever lived, under its title, because a removed name may come back. A component
    whose cohorts have differed has a column for each cohort from then on.
    """

    def __init__(self) -> None:
        self._base, self._product, self._frozen = SeriesTable(), SeriesTable(), SeriesTable()
        self._names: list[str] = []  # title of each column
        self._owners: list[str] = []  # title of the component that each column belongs to
        self._births: list[int] = []  # step at which each column starts
        self._ends: list[int] = []  # first step without the component, or STILL_PRESENT
        self._columns: dict[str, int] = {}  # column of each present component or cohort, by title
        self._exact_from, self._stride = 0, 1  # before that step, only multiples of the stride are exact
        self.end_step = 0  # the step after the last recorded step
        self.components: tuple[Component, ...] = ()  # of the present structure, in order of depth
        self.log: tuple[GrowthEvent, ...] = ()
        self._titles: dict[str, str] = {}

    def set_structure(self, components: Iterable[Component], log: Iterable[GrowthEvent], step: int) -> None:
        """Set the structure of the network, and end the columns of removed components.

        Args:
            components: The components of the network, in order of depth.
            log: The growth log.
            step: The first step with this structure.
        """
        self.components, self.log = tuple(components), tuple(log)
        names = [component.name for component in self.components]
        self._titles = dict(zip(names, titles(self.components, self.log), strict=True))
        present = set(self._titles.values())
        self._end_columns(
            [title for title, column in self._columns.items() if self._owners[column] not in present], step
        )

    @property
    def shown_by_cohort(self) -> set[str]:
        """Titles of the components whose cohorts have, or had, columns of their own."""
        return {owner for name, owner in zip(self._names, self._owners, strict=True) if name != owner}

    def title_of(self, name: str) -> str:
        """The title of a present component."""
        # a component that appeared without a growth event, for example by a new pattern, has no title
        return self._titles.get(name, name)

    def titles_of_newborns(self, event: GrowthEvent) -> dict[str, str]:
        """The titles of new components, and of the new cohorts of widened ones, by name of the component."""
        cohorts = {name: cohort_title(self.title_of(name), event.clock.generation, self.log) for name in event.widened}
        return {name: self.title_of(name) for name in event.born} | cohorts

    def columns_of(
        self, step: int, names: Sequence[str], cohorts: Mapping[str, Sequence[int | None]] = {}
    ) -> NDArray[np.intp]:
        """The columns of components; those without one get a new column.

        Args:
            step: The step at which new columns start.
            names: Names of the components.
            cohorts: For components with a column for each cohort: the numbers of the growth events that added them,
                None for the first entries. Columns of other cohorts of these components end.
        """
        wanted = {
            cohort_title(self.title_of(name), cohort, self.log): self.title_of(name)
            for name in names
            for cohort in cohorts.get(name, (None,))
        }
        by_cohort = {self.title_of(name) for name in cohorts}
        self._end_columns(
            [t for t, column in self._columns.items() if self._owners[column] in by_cohort and t not in wanted], step
        )
        new = [title for title in wanted if title not in self._columns]
        for title in new:
            self._columns[title] = len(self._names)
            self._names.append(title)
            self._owners.append(wanted[title])
            self._births.append(step)
            self._ends.append(STILL_PRESENT)
        for table in self._tables:
            table.add_columns(len(new))
        return np.array([self._columns[title] for title in wanted], dtype=np.intp)

    def titles_at(self, columns: NDArray[np.intp]) -> list[str]:
        """The titles of columns."""
        return [self._names[column] for column in columns.tolist()]

    def add_lrs(self, step: int, columns: NDArray[np.intp], bases: Vector, products: Vector) -> None:
        """Add learning rates that changed at a step.

        Args:
            step: Number of optimizer steps before it.
            columns: Columns of components.
            bases: Their base lrs.
            products: The products of their factors.
        """
        for table, values in ((self._base, bases), (self._product, products)):
            now = table.last  # components of other optimizers keep their values
            now[columns] = values
            table.add(step, now)
        if self._size > MAX_BYTES:
            self._thin(MAX_BYTES // 2)  # half, so that thinning stays rare

    def add_frozen(self, step: int, names: Iterable[str]) -> bool:
        """Add the set of frozen components from a step on, and return whether it changed."""
        frozen = {self.title_of(name): name for name in sorted(names)}
        known = {self._owners[column] for column in self._columns.values()}
        self.columns_of(step, [name for title, name in frozen.items() if title not in known])
        before, now = self._frozen.last, np.zeros(len(self._names))
        # a frozen component is frozen with all its cohorts
        now[[column for column in self._columns.values() if self._owners[column] in frozen]] = 1.0
        self._frozen.add(step, now)
        return bool(((before == 1) != (now == 1)).any())

    def to_history(self) -> LRHistory:
        """The matrix of learning rates at all steps at which anything changed."""
        # the last recorded step belongs to them, or a picture would end at the last change
        turns = [*self._births, *self._ends, self.end_step - 1]
        steps = np.unique(np.concatenate([*(table.steps() for table in self._tables), np.array(turns, dtype=np.int64)]))
        steps = steps[(steps >= 0) & (steps < self.end_step)]
        order = self._by_birth_and_depth()
        every = max(1, -(-len(steps) * len(order) // MAX_CELLS_IN_HISTORY))
        if every > 1:
            steps = np.unique(np.append(steps[::every], steps[-1]))
        alive = self._alive_at(steps)
        base, product, frozen = (table.at(steps) for table in self._tables)
        return LRHistory(
            components=tuple(self._names[column] for column in order),
            steps=steps,
            lrs=np.where(alive, base * product, np.nan)[order],
            frozen=(alive & (frozen == 1))[order],
            events=tuple(map(growth_mark, self.log)),
            note=_note(self._exact_from, self._stride, every),
        )

    def state_dict(self, max_bytes: int = MAX_BYTES_IN_CHECKPOINT) -> dict[str, Any]:
        """The record without components and log, which the module brings when the run is resumed.

        Args:
            max_bytes: Size, an estimate, to which older steps are thinned.
        """
        saved = deepcopy(self)
        saved._thin(max_bytes)
        return {
            "names": saved._names,
            "owners": saved._owners,
            "births": saved._births,
            "ends": saved._ends,
            "exact_from": saved._exact_from,
            "stride": saved._stride,
            "end": saved.end_step,
            "base": saved._base.state_dict(),
            "product": saved._product.state_dict(),
            "frozen": saved._frozen.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the content of the record by a state dict."""
        self._names, self._owners = list(state["names"]), list(state["owners"])
        self._births, self._ends = list(state["births"]), list(state["ends"])
        self._columns = {name: column for column, name in enumerate(self._names) if self._ends[column] == STILL_PRESENT}
        self._exact_from, self._stride, self.end_step = state["exact_from"], state["stride"], state["end"]
        for name, table in zip(("base", "product", "frozen"), self._tables, strict=True):
            table.load_state_dict(state[name])

    @property
    def _tables(self) -> tuple[SeriesTable, SeriesTable, SeriesTable]:
        return self._base, self._product, self._frozen

    @property
    def _size(self) -> int:
        """Bytes, an estimate."""
        return self._base.size + self._product.size + self._frozen.size

    def _by_birth_and_depth(self) -> list[int]:
        """The columns in order of birth; of one birth removed components first, then the others by depth.

        The columns of the cohorts of a component stand side by side.
        """
        born = [Component(name, born=event.clock) for event in self.log for name in event.born]
        generations = (component.born.generation for component in born)
        births = dict(zip(titles(born, self.log), generations, strict=True))
        present = {
            self._titles[component.name]: (component.born.generation, depth)
            for depth, component in enumerate(self.components)
        }
        removed = -1  # the depth of a removed component is not known any more
        first: dict[str, int] = {}
        for column, owner in enumerate(self._owners):
            first.setdefault(owner, column)
        keys = [(*(present.get(owner) or (births.get(owner, 0), removed)), first[owner]) for owner in self._owners]
        return sorted(range(len(self._names)), key=keys.__getitem__)

    def _end_columns(self, column_titles: Iterable[str], step: int) -> None:
        """End columns: ``step`` is the first without them."""
        for title in column_titles:
            self._ends[self._columns.pop(title)] = step

    def _alive_at(self, steps: Steps) -> NDArray[np.bool_]:
        """Whether the component of each column existed, by column and step."""
        births, ends = np.array(self._births, dtype=np.int64), np.array(self._ends, dtype=np.int64)
        begun = steps >= births[:, None]
        return begun & ((steps < ends[:, None]) | (ends[:, None] == STILL_PRESENT))

    def _thin(self, max_bytes: int) -> None:
        """Thin older steps until the entries take no more bytes than allowed."""
        steps = np.sort(np.concatenate([table.steps() for table in self._tables]))
        recent = max_bytes // BYTES_PER_ENTRY // 2  # the newest half of the allowed entries is thinned last
        for before in (int(steps[-min(len(steps), recent)]) if len(steps) else 0, self.end_step):
            while self._size > max_bytes and self._stride < before:
                self._exact_from, self._stride = max(before, self._exact_from), self._stride * 2
                for table in self._tables:
                    table.thin(self._exact_from, self._stride)


def _note(exact_from: int, stride: int, every: int) -> str:
    """The text that pictures show about steps that were left out."""
    notes = []
    if stride > 1:
        notes.append(f"before step {exact_from:,} one step in {stride} is shown")
    if every > 1:
        notes.append(f"one in {every} of the steps with changes is shown")
    return "\n".join(notes)
