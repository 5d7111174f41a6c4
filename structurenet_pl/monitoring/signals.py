"""Numbers over time, kept where they change."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Steps = NDArray[np.int64]
BYTES_PER_ENTRY = 8  # bytes
NO_PARENT = -1


class Series:
    """One number over time. It holds from one entry to the next; entries at consecutive steps take 8 bytes each.

    Args:
        parent: What it was before its first entry.
    """

    def __init__(self, parent: "Series | None" = None) -> None:
        self.parent = parent
        self.values = array("d")
        self.runs = array("q")  # position and step of the first entry of each run of consecutive steps

    def add(self, step: int, value: float) -> None:
        """Add an entry. Steps do not go back; of two entries at one step the second counts."""
        if not self.runs or step != self.runs[-1] + len(self.values) - self.runs[-2]:
            self.runs.extend((len(self.values), step))
        self.values.append(value)

    def entries(self) -> tuple[Steps, Vector]:
        """The steps of all entries, and their values."""
        values = np.array(self.values, dtype=np.float64)
        first, steps = np.array(self.runs, dtype=np.int64).reshape(-1, 2).T
        lengths = np.diff(np.append(first, len(values)))
        return np.repeat(steps - first, lengths) + np.arange(len(values)), values

    def at(self, steps: Steps) -> Vector:
        """Its values at some steps, in ascending order; nan where there is none yet."""
        known, values = self.entries()
        places = np.searchsorted(known, steps, side="right")
        found = np.append(np.nan, values)[places]
        early = places == 0
        if self.parent is not None and early.any():
            found[early] = self.parent.at(steps[early])
        return found

    def thin(self, before: int, stride: int) -> None:
        """Keep, up to some step, what it was at every so many steps."""
        steps, values = self.entries()
        early = steps < before
        grid = np.unique(np.minimum(-(-steps[early] // stride) * stride, before))
        kept = np.unique(np.append(grid, steps[~early]))
        self.values, self.runs = array("d"), array("q")
        for step, value in zip(
            kept.tolist(), values[np.searchsorted(steps, kept, side="right") - 1].tolist(), strict=True
        ):
            self.add(step, value)


class Signal:
    """Numbers over time, one for each column. Columns that have been alike all along share a series."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.size = 0  # bytes, about
        self._last = np.zeros(0)
        self._classes = np.zeros(0, dtype=np.intp)  # the series of each column
        self._first = np.zeros(0, dtype=np.intp)  # the first column of each series

    @property
    def last(self) -> Vector:
        """The number of each column at the last step, as a copy."""
        return self._last.copy()

    def grow(self, count: int) -> None:
        """Add columns, which have no numbers yet."""
        if count:
            self._classes = np.append(self._classes, np.full(count, len(self.series)))
            self._last = np.append(self._last, np.full(count, np.nan))
            self.series.append(Series())
            self._find_first()

    def add(self, step: int, values: Vector) -> None:
        """Take in the numbers of all columns at a step."""
        if (values == self._last).all():
            return
        if (values != values[self._first][self._classes]).any():
            self._part(values)
        now = values[self._first]
        for number in np.flatnonzero(now != self._last[self._first]).tolist():
            self._add(number, step, float(now[number]))
        self._last = values.copy()

    def at(self, steps: Steps) -> Vector:
        """The numbers of all columns at some steps: a row for each column."""
        rows = [series.at(steps) for series in self.series]
        return np.array(rows).reshape(len(rows), len(steps))[self._classes]

    def steps(self) -> Steps:
        """The steps of all entries."""
        known = [series.entries()[0] for series in _with_parents(self.series)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *known])

    def thin(self, before: int, stride: int) -> None:
        """Keep, up to some step, what the numbers were at every so many steps."""
        for series in _with_parents(self.series):
            series.thin(before, stride)
        self._measure()

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors."""
        series = _with_parents(self.series)
        numbers = {id(one): number for number, one in enumerate(series)}
        values, runs = [one.values for one in series], [one.runs for one in series]
        return {
            "classes": torch.tensor([numbers[id(self.series[number])] for number in self._classes.tolist()]),
            "parents": torch.tensor([numbers.get(id(one.parent), NO_PARENT) for one in series]),
            "value_counts": torch.tensor([len(some) for some in values]),
            "run_counts": torch.tensor([len(some) for some in runs]),
            "values": torch.tensor([value for some in values for value in some], dtype=torch.float64),
            "runs": torch.tensor([entry for some in runs for entry in some], dtype=torch.int64),
            "last": torch.from_numpy(self.last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be what a state dict says."""
        values = state["values"].split(state["value_counts"].tolist())
        runs = state["runs"].split(state["run_counts"].tolist())
        series = [Series() for _ in values]
        for one, number, some, entries in zip(series, state["parents"].tolist(), values, runs, strict=True):
            one.parent = None if number == NO_PARENT else series[number]
            one.values.extend(some.tolist())
            one.runs.extend(entries.tolist())
        used, classes = np.unique(state["classes"].numpy(), return_inverse=True)
        self.series = [series[number] for number in used.tolist()]
        self._classes, self._last = classes, state["last"].numpy()
        self._find_first()
        self._measure()

    def _add(self, number: int, step: int, value: float) -> None:
        self.series[number].add(step, value)
        self.size += BYTES_PER_ENTRY

    def _part(self, values: Vector) -> None:
        """Give columns that part from others a series of their own, which goes on from the one they had."""
        _, classes = np.unique(np.stack([self._classes, values]), axis=1, return_inverse=True)
        first = np.unique(classes, return_index=True)[1]
        self.series = [Series(self.series[number]) for number in self._classes[first].tolist()]
        self._classes = classes.reshape(-1)
        self._find_first()

    def _find_first(self) -> None:
        self._first = np.unique(self._classes, return_index=True)[1]

    def _measure(self) -> None:
        self.size = sum(BYTES_PER_ENTRY * (len(one.values) + len(one.runs)) for one in _with_parents(self.series))


def _with_parents(series: Iterable[Series]) -> list[Series]:
    """The series and all that they go on from, each once."""
    found: dict[int, Series] = {}
    for one in series:
        ancestor: Series | None = one
        while ancestor is not None and id(ancestor) not in found:
            found[id(ancestor)] = ancestor
            ancestor = ancestor.parent
    return list(found.values())
