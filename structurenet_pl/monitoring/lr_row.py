"""One row of scalars: the learning rates of one logged step, by tag.

TensorBoard groups tags by their first word and sorts the groups by their letters, in which slashes, underscores and
digits come before all others. So the names of tags are such that ``lr/`` is the first of our groups, and details the
last.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.table_rows import TableRows

SUMMARIES: Mapping[str, Callable[[Collection[float]], float]] = {"min": min, "mean": fmean, "max": max}


@dataclass(frozen=True)
class LRRow:
    """The learning rates before a step of one optimizer.

    Args:
        own: The rows of the optimizer that takes the step.
        every: Those of all optimizers.
        labels: The labels of all factors.
        by_part: Whether parts of the network are summed up, in place of a curve for each component.
        frozen: The frozen components and their shares, None if no callback freezes.
    """

    own: TableRows
    every: Collection[TableRows]
    labels: Sequence[str]
    by_part: bool
    frozen: Frozen | None

    @classmethod
    def of(
        cls,
        trainer: Trainer,
        driver: Driver,
        rows: Mapping[Optimizer, TableRows],
        optimizer: Optimizer,
        max_components: int,
    ) -> "LRRow":
        """The row of a step.

        Args:
            trainer: The Trainer, in a fit.
            driver: Its driver.
            rows: The rows of each optimizer, as they were just recorded.
            optimizer: The optimizer that takes the step.
            max_components: Number of components above which parts are summed up.
        """
        now = driver.moment(trainer)
        for of_table in rows.values():
            of_table.update_facts(now, driver.structure)
        return cls(
            own=rows[optimizer],
            every=[rows[other] for other in driver.tables],
            labels=list(driver.factors),
            by_part=len(driver.structure.components) > max_components,
            frozen=driver.frozen if any(factor.freezes for factor in driver.factors.values()) else None,
        )

    def scalars(self) -> dict[str, float]:
        """Value by tag."""
        lrs = self._lrs()
        # a summary spans all optimizers: two of them may hold components of the same part
        scalars = self._scalars_by_part() if self.by_part else self._scalars_by_component()
        scalars |= {f"strata/lr_range/{word}": summary(lrs) for word, summary in SUMMARIES.items() if lrs}
        if self.frozen is not None:
            scalars["strata/frozen_share/parameters"] = self.frozen.parameters
            if self.frozen.work is not None:
                scalars["strata/frozen_share/work"] = self.frozen.work
        return scalars

    def mean_lrs(self) -> dict[str, float]:
        """The mean effective lr of each part of the network."""
        lrs = self._lrs()
        return {part: fmean(lrs[place] for place in places) for part, places in self._parts().items()}

    def tensors(self) -> dict[str, list[Tensor]]:
        """The tensors of the optimizer that takes the step, by component or part."""
        titles = self.own.facts.parts if self.by_part else self.own.titles
        names = (name for name, _ in self.own.stands_for)
        name_of: dict[str, str] = {}
        for name, title in zip(names, titles, strict=True):
            name_of.setdefault(name, title)  # of several cohorts the oldest: norms are those of whole tensors
        tensors: dict[str, list[Tensor]] = {}
        groups = self.own.table.groups
        for info in map(groups.group_infos.__getitem__, self.own.names):
            if info.component in name_of:
                tensors.setdefault(name_of[info.component], []).extend(groups.tensors_of(info.name))
        return tensors

    def _lrs(self) -> list[float]:
        return [lr for rows in self.every for lr in rows.lrs().tolist()]

    def _curves(self, rows: TableRows) -> dict[str, Sequence[Any]]:
        """The values of all components by the first words of their tags."""
        factors = rows.table.matrix.every_value[rows.factor_rows].T.tolist()
        curves: dict[str, Sequence[Any]] = {"lr": rows.lrs().tolist()}
        curves |= {f"strata/factor/{label}": values for label, values in zip(self.labels, factors, strict=True)}
        # a part is a stratum already, so its number would say nothing new
        if not self.by_part:
            curves["strata/stratum"] = rows.facts.stratum_numbers
        if self.frozen is not None:
            curves["strata/frozen"] = [float(name in self.frozen.components) for name, _ in rows.stands_for]
        return curves | {"strata.details/age": rows.facts.ages, "strata.details/base_lr": rows.base_lrs().tolist()}

    def _scalars_by_component(self) -> dict[str, float]:
        return {
            f"{kind}/{title}": value
            for kind, values in self._curves(self.own).items()
            for title, value in zip(self.own.titles, values, strict=True)
            if value is not None
        }

    def _scalars_by_part(self) -> dict[str, float]:
        parts = self._parts()
        scalars: dict[str, float] = {f"strata/components/{part}": len(places) for part, places in parts.items()}
        curves = [self._curves(rows) for rows in self.every]
        for kind in curves[0]:
            values = list(chain.from_iterable(of_rows[kind] for of_rows in curves))
            for part, places in parts.items():
                known = [values[place] for place in places]
                scalars |= {f"{kind}/{part}/{word}": summary(known) for word, summary in SUMMARIES.items()}
        return scalars

    def _parts(self) -> dict[str, list[int]]:
        """The places of the components of each part of the network."""
        parts: dict[str, list[int]] = {}
        for place, part in enumerate(part for rows in self.every for part in rows.facts.parts):
            parts.setdefault(part, []).append(place)
        return parts
