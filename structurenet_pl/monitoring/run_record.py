"""The learning rates of a run at all of its steps."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structurenet_pl.monitoring.lr_history import LRHistory, mark
from structurenet_pl.monitoring.signals import BYTES_PER_ENTRY, Signal, Vector
from structurenet_pl.structure.events import Component, GrowthEvent, titles

MAX_BYTES = 32_000_000  # bytes, about, that a history takes at most
MAX_BYTES_IN_CHECKPOINT = 950_000  # bytes of it, about, in a checkpoint
MAX_CELLS_IN_PICTURE = 20_000_000  # numbers in a picture


class RunRecord:
    """Base lr, product of factors, and frozen or not, of each component, at every step: kept where they change.

    It is exact unless it gets too long; then older steps are thinned, and pictures say so.
    """

    def __init__(self) -> None:
        self._base, self._product, self._frozen = Signal(), Signal(), Signal()
        self._names: list[str] = []  # of each column: titles, which tell the lives of a name apart
        self._births: list[int] = []
        self._ends: list[int] = []  # -1: still there
        self._columns: dict[str, int] = {}  # of those that are there
        self._exact_from, self._stride = 0, 1
        self.end = 0  # the step behind the last

    def keep(self, names: Iterable[str], step: int) -> None:
        """End the columns of components that are gone.

        Args:
            names: Titles of the components that there are.
            step: The first step without the others.
        """
        for name in self._columns.keys() - set(names):
            self._ends[self._columns.pop(name)] = step

    def columns(self, step: int, names: Sequence[str]) -> NDArray[np.intp]:
        """The columns of some components, new ones for those that have none.

        Args:
            step: The step at which these are born.
            names: Titles of the components.
        """
        new = [name for name in names if name not in self._columns]
        for name in new:
            self._columns[name] = len(self._names)
            self._names.append(name)
            self._births.append(step)
            self._ends.append(-1)
        for signal in (self._base, self._product, self._frozen):
            signal.grow(len(new))
        return np.array([self._columns[name] for name in names], dtype=np.intp)

    def add(self, step: int, columns: NDArray[np.intp], bases: Vector, products: Vector) -> None:
        """Take in what has moved at a step.

        Args:
            step: Optimizer steps before it.
            columns: The columns of some components.
            bases: Their base lrs.
            products: The products of their factors.
        """
        for signal, values in ((self._base, bases), (self._product, products)):
            now = signal.last
            now[columns] = values
            signal.add(step, now)
        if self._size > MAX_BYTES:
            self._thin(MAX_BYTES // 2)

    def freeze(self, step: int, names: Iterable[str]) -> bool:
        """Take in which components are frozen from a step on; tell if that is news."""
        columns = self.columns(step, sorted(names))
        before, now = self._frozen.last, np.zeros(len(self._names))
        now[columns] = 1.0
        self._frozen.add(step, now)
        return bool(((before == 1) != (now == 1)).any())

    def strata(self, components: Iterable[Component], log: Iterable[GrowthEvent]) -> LRHistory:
        """What there was, at all steps at which anything changed.

        Args:
            components: Those of the network now, in order of depth; others are gone.
            log: The growth log.
        """
        log = tuple(log)
        components = list(components)
        born = [Component(name, born=event.clock) for event in log for name in event.born]
        births = dict(zip(titles(born, log), (one.born.generation for one in born), strict=True))
        places = ((one.born.generation, depth) for depth, one in enumerate(components))
        there = dict(zip(titles(components, log), places, strict=True))
        order = sorted(
            range(len(self._names)),
            key=lambda column: there.get(self._names[column]) or (births.get(self._names[column], 0), -1),
        )
        signals = (self._base, self._product, self._frozen)
        turns = [*self._births, *self._ends, self.end - 1]  # the last step of all, or a picture would end before
        steps = np.unique(np.concatenate([*(signal.steps() for signal in signals), np.array(turns, dtype=np.int64)]))
        steps = steps[(steps >= 0) & (steps < self.end)]
        every = max(1, -(-len(steps) * len(order) // MAX_CELLS_IN_PICTURE))
        if every > 1:
            steps = np.unique(np.append(steps[::every], steps[-1]))
        alive = np.array(
            [
                (steps >= birth) & ((steps < end) if end >= 0 else True)
                for birth, end in zip(self._births, self._ends, strict=True)
            ]
        ).reshape(len(order), len(steps))
        base, product, frozen = (signal.at(steps) for signal in signals)
        return LRHistory(
            components=tuple(self._names[column] for column in order),
            steps=steps,
            lrs=np.where(alive, base * product, np.nan)[order],
            frozen=(alive & (frozen == 1))[order],
            events=tuple(map(mark, log)),
            note=self._note(every),
        )

    def state_dict(self, limit: int = MAX_BYTES_IN_CHECKPOINT) -> dict[str, Any]:
        """What a resumed run needs in order to go on.

        Args:
            limit: Bytes, about, that it may take: older steps are thinned until it does.
        """
        saved = deepcopy(self)
        saved._thin(limit)
        return {
            "names": saved._names,
            "births": saved._births,
            "ends": saved._ends,
            "exact_from": saved._exact_from,
            "stride": saved._stride,
            "end": saved.end,
            "base": saved._base.state_dict(),
            "product": saved._product.state_dict(),
            "frozen": saved._frozen.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be what a state dict says."""
        self._names, self._births, self._ends = list(state["names"]), list(state["births"]), list(state["ends"])
        self._columns = {name: column for column, name in enumerate(self._names) if self._ends[column] < 0}
        self._exact_from, self._stride, self.end = state["exact_from"], state["stride"], state["end"]
        for name, signal in (("base", self._base), ("product", self._product), ("frozen", self._frozen)):
            signal.load_state_dict(state[name])

    @property
    def _size(self) -> int:
        return self._base.size + self._product.size + self._frozen.size

    def _thin(self, limit: int) -> None:
        """Thin older steps until the entries take no more bytes than the limit; half of them are left to the last."""
        signals = (self._base, self._product, self._frozen)
        steps = np.sort(np.concatenate([signal.steps() for signal in signals]))
        for before in (int(steps[-min(len(steps), limit // BYTES_PER_ENTRY // 2)]) if len(steps) else 0, self.end):
            while self._size > limit and self._stride < before:
                self._exact_from, self._stride = max(before, self._exact_from), self._stride * 2
                for signal in signals:
                    signal.thin(self._exact_from, self._stride)

    def _note(self, every: int) -> str:
        """What a picture says of what it leaves out."""
        notes = []
        if self._stride > 1:
            notes.append(f"before step {self._exact_from:,} one step in {self._stride} is shown")
        if every > 1:
            notes.append(f"one in {every} of the steps with changes is shown")
        return "\n".join(notes)
