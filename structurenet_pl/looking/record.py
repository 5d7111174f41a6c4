"""The record of a run that a picture is made of: learning rates at enough of its steps, and no more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from structurenet_pl.events import Component, GrowthEvent
from structurenet_pl.looking.plots import COLUMNS
from structurenet_pl.looking.rows import Row
from structurenet_pl.looking.strata import Strata, mark

CELLS = 200_000  # a megabyte or two for any network


@dataclass(frozen=True)
class _Column:
    number: int  # of the row
    corner: bool  # whether a curve may have a corner here
    step: int
    lrs: Mapping[str, float]
    frozen: frozenset[str]


class Record:
    """Rows of the log, thinned evenly where they become too many; those at corners of the curves stay longest.

    Where most are corners, even these are thinned.
    """

    def __init__(self) -> None:
        self._columns: list[_Column] = []
        self._number = 0
        self._stride = 1

    def add(self, row: Row, corner: bool) -> None:
        """Take a row in, or leave it out between those that stay.

        Args:
            row: The row.
            corner: Whether a curve may have a corner at this step.
        """
        column = _Column(self._number, corner, row.step, row.lrs, row.frozen)
        self._number += 1
        if self._stays(column):
            self._columns.append(column)
        most = min(COLUMNS, CELLS // max(1, len(row.lrs)))
        while len(self._columns) > most:
            self._stride *= 2
            if sum(column.corner for column in self._columns) > most // 2:
                self._columns = [replace(column, corner=False) for column in self._columns]
            self._columns = list(filter(self._stays, self._columns))

    def strata(self, components: Iterable[Component], log: Iterable[GrowthEvent], latest: Iterable[Row] = ()) -> Strata:
        """What has been recorded.

        Args:
            components: Those of the network now, in order of depth; others are gone.
            log: The growth log.
            latest: Rows to be shown as well, or a picture would end before the run.
        """
        found = [*self._columns, *(_Column(self._number, False, row.step, row.lrs, row.frozen) for row in latest)]
        depths = {component.name: (component.born.generation, depth) for depth, component in enumerate(components)}
        born = {name: event.clock.generation for event in log for name in event.born}
        names = sorted(_names(found), key=lambda name: depths.get(name, (born.get(name, 0), -1)))
        # with several optimizers the row of a corner may come after a later step of another one
        columns = sorted({column.step: column for column in found}.values(), key=lambda column: column.step)
        return Strata(
            components=tuple(names),
            steps=np.array([column.step for column in columns], dtype=np.int64),
            lrs=_lrs(names, columns),
            frozen=_frozen(names, columns),
            events=tuple(map(mark, log)),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs in order to go on; tensors, because they are small in a checkpoint."""
        names = _names(self._columns)
        columns = [[column.number, column.corner, column.step] for column in self._columns]
        return {
            "names": names,
            "columns": torch.tensor(columns, dtype=torch.int64).reshape(-1, 3),
            "lrs": torch.from_numpy(_lrs(names, self._columns)),
            "frozen": torch.from_numpy(_frozen(names, self._columns)),
            "number": self._number,
            "stride": self._stride,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        names, self._number, self._stride = state["names"], state["number"], state["stride"]
        self._columns = [
            _Column(
                number,
                bool(corner),
                step,
                {name: lr for name, lr in zip(names, lrs, strict=True) if lr == lr},  # not nan, which is unborn
                frozenset(name for name, still in zip(names, frozen, strict=True) if still),
            )
            for (number, corner, step), lrs, frozen in zip(
                state["columns"].tolist(), state["lrs"].T.tolist(), state["frozen"].T.tolist(), strict=True
            )
        ]

    def _stays(self, column: _Column) -> bool:
        return column.corner or column.number % self._stride == 0


def _names(columns: Sequence[_Column]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column.lrs))


def _lrs(names: Sequence[str], columns: Sequence[_Column]) -> NDArray[np.float64]:
    lrs = np.empty((len(names), len(columns)))
    for index, column in enumerate(columns):
        lrs[:, index] = [column.lrs.get(name, np.nan) for name in names]
    return lrs


def _frozen(names: Sequence[str], columns: Sequence[_Column]) -> NDArray[np.bool_]:
    frozen = np.empty((len(names), len(columns)), dtype=np.bool_)
    for index, column in enumerate(columns):
        frozen[:, index] = [name in column.frozen for name in names]
    return frozen
