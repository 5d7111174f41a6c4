"""Compressed numbers over steps: an entry is stored only at a step at which a number changes."""

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Steps = NDArray[np.int64]
BYTES_PER_ENTRY = 8  # bytes of one value; a run of consecutive steps takes two more such numbers
NO_PARENT = -1  # in a state dict, for a series that continues no other


class Series:
    """One number over steps: each entry holds until the next one.

    Entries at consecutive steps take 8 bytes each, because only the first step of such a run is stored.

    Args:
        parent: The series that holds the number before the first entry of this one.
    """

    def __init__(self, parent: "Series | None" = None) -> None:
        self.parent = parent
        self.values = array("d")
        self.runs = array("q")  # position and step of the first entry of each run of consecutive steps

    def add(self, step: int, value: float) -> None:
        """Add an entry. Steps must not decrease; of two entries at one step the second counts."""
        if not self.runs or step != self.runs[-1] + len(self.values) - self.runs[-2]:
            self.runs.extend((len(self.values), step))
        self.values.append(value)

    def entries(self) -> tuple[Steps, Vector]:
        """The steps and values of all entries."""
        values = np.array(self.values, dtype=np.float64)
        first, steps = np.array(self.runs, dtype=np.int64).reshape(-1, 2).T
        lengths = np.diff(np.append(first, len(values)))
        return np.repeat(steps - first, lengths) + np.arange(len(values)), values

    def at(self, steps: Steps) -> Vector:
        """The values at the given steps, which must ascend; nan before the first entry of all."""
        entry_steps, entry_values = self.entries()
        # "right": of two entries at one step the second counts
        positions = np.searchsorted(entry_steps, steps, side="right")
        values = np.append(np.nan, entry_values)[positions]
        early = positions == 0
        if self.parent is not None and early.any():
            values[early] = self.parent.at(steps[early])
        return values

    def thin(self, before: int, stride: int) -> None:
        """Keep only the values at multiples of ``stride`` for all steps below ``before``."""
        steps, values = self.entries()
        early = steps < before
        # rounded up: an entry that is dropped must not change the value at an earlier multiple of the stride
        grid = np.unique(np.minimum(-(-steps[early] // stride) * stride, before))
        kept = np.unique(np.append(grid, steps[~early]))
        self.values, self.runs = array("d"), array("q")
        for step, value in zip(
            kept.tolist(), values[np.searchsorted(steps, kept, side="right") - 1].tolist(), strict=True
        ):
            self.add(step, value)


class SeriesTable:
    """A table of numbers over steps, one column each; columns that never differed share one series.

    A schedule that moves a thousand components alike is stored once. Columns that differ for the first time get series
    of their own, whose parent is the series that they shared.
    """

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.size = 0  # bytes, an estimate
        self._last = np.zeros(0)
        self._series_of = np.zeros(0, dtype=np.intp)  # number of the series of each column
        self._first = np.zeros(0, dtype=np.intp)  # the first column of each series

    @property
    def last(self) -> Vector:
        """A copy of the numbers of all columns at the last step."""
        return self._last.copy()

    def add_columns(self, number: int) -> None:
        """Add columns without entries."""
        if number:
            self._series_of = np.append(self._series_of, np.full(number, len(self.series)))
            self._last = np.append(self._last, np.full(number, np.nan))
            self.series.append(Series())  # new columns share one until their numbers differ
            self._find_first_columns()

    def add(self, step: int, values: Vector) -> None:
        """Add the numbers of all columns at a step."""
        if (values == self._last).all():
            return
        if (values != values[self._first][self._series_of]).any():
            self._split_series(values)
        now = values[self._first]
        for number in np.flatnonzero(now != self._last[self._first]).tolist():
            self.series[number].add(step, float(now[number]))
            self.size += BYTES_PER_ENTRY
        self._last = values.copy()

    def at(self, steps: Steps) -> Vector:
        """The numbers at the given steps: a row for each column of this table."""
        rows = [series.at(steps) for series in self.series]
        return np.array(rows).reshape(len(rows), len(steps))[self._series_of]

    def steps(self) -> Steps:
        """The steps of all entries, unsorted and with repetitions."""
        steps = [series.entries()[0] for series in _with_parents(self.series)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *steps])

    def thin(self, before: int, stride: int) -> None:
        """Keep only the numbers at multiples of ``stride`` for all steps below ``before``."""
        for series in _with_parents(self.series):
            series.thin(before, stride)
        self._measure_size()

    def state_dict(self) -> dict[str, Any]:
        """The whole table, as tensors."""
        all_series = _with_parents(self.series)
        numbers = {id(series): number for number, series in enumerate(all_series)}
        return {
            "classes": torch.tensor([numbers[id(self.series[number])] for number in self._series_of.tolist()]),
            "parents": torch.tensor([numbers.get(id(series.parent), NO_PARENT) for series in all_series]),
            "value_counts": torch.tensor([len(series.values) for series in all_series]),
            "run_counts": torch.tensor([len(series.runs) for series in all_series]),
            "values": torch.tensor([value for series in all_series for value in series.values], dtype=torch.float64),
            "runs": torch.tensor([entry for series in all_series for entry in series.runs], dtype=torch.int64),
            "last": torch.from_numpy(self.last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the content of the table by a state dict."""
        all_values = state["values"].split(state["value_counts"].tolist())
        all_runs = state["runs"].split(state["run_counts"].tolist())
        all_series = [Series() for _ in all_values]
        for series, parent, values, runs in zip(
            all_series, state["parents"].tolist(), all_values, all_runs, strict=True
        ):
            series.parent = None if parent == NO_PARENT else all_series[parent]
            series.values.extend(values.tolist())
            series.runs.extend(runs.tolist())
        # series that are only parents have no column, so the others are numbered anew
        used, self._series_of = np.unique(state["classes"].numpy(), return_inverse=True)
        self.series = [all_series[number] for number in used.tolist()]
        self._last = state["last"].numpy()
        self._find_first_columns()
        self._measure_size()

    def _split_series(self, values: Vector) -> None:
        """Give columns with different values different series, which continue the series that they shared."""
        _, series_of = np.unique(np.stack([self._series_of, values]), axis=1, return_inverse=True)
        first = np.unique(series_of, return_index=True)[1]
        self.series = [Series(self.series[number]) for number in self._series_of[first].tolist()]
        self._series_of = series_of.reshape(-1)  # numpy 2.0 returns the inverse with a second dimension
        self._find_first_columns()

    def _find_first_columns(self) -> None:
        self._first = np.unique(self._series_of, return_index=True)[1]

    def _measure_size(self) -> None:
        all_series = _with_parents(self.series)
        self.size = sum(BYTES_PER_ENTRY * (len(series.values) + len(series.runs)) for series in all_series)


def _with_parents(series: Iterable[Series]) -> list[Series]:
    """The series and all their ancestors, each once."""
    by_id: dict[int, Series] = {}
    for descendant in series:
        ancestor: Series | None = descendant
        while ancestor is not None and id(ancestor) not in by_id:
            by_id[id(ancestor)] = ancestor
            ancestor = ancestor.parent
    return list(by_id.values())
