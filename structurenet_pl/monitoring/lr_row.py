"""One row of scalars: the learning rates of one logged step, by tag.

TensorBoard groups tags by their first word and sorts the groups by their letters, in which slashes, underscores and
digits come before all others. So the names of tags are such that ``lr/`` is the first of our groups, and details the
last.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.group_lrs import GroupLR, group_lrs

SUMMARIES: Mapping[str, Callable[[Collection[float]], float]] = {"min": min, "mean": fmean, "max": max}


@dataclass(frozen=True)
class LRRow:
    """The learning rates before a step of one optimizer.

    Args:
        own: Entries of the optimizer that takes the step.
        every: Entries of all optimizers.
        by_part: Whether parts of the network are summed up, in place of a curve for each component.
        frozen: The frozen components and their shares, None if no callback freezes.
    """

    own: Sequence[GroupLR]
    every: Sequence[GroupLR]
    by_part: bool
    frozen: Frozen | None

    @classmethod
    def of(cls, trainer: Trainer, driver: Driver, optimizer: Optimizer, max_components: int) -> "LRRow":
        """The row of a step.

        Args:
            trainer: The Trainer, in a fit.
            driver: Its driver.
            optimizer: The optimizer that takes the step.
            max_components: Number of components above which parts are summed up.
        """
        entries = {other: group_lrs(trainer, driver, other) for other in driver.tables}
        return cls(
            own=entries[optimizer],
            every=list(chain.from_iterable(entries.values())),
            by_part=len(driver.structure.components) > max_components,
            frozen=driver.frozen if any(factor.freezes for factor in driver.factors.values()) else None,
        )

    def scalars(self) -> dict[str, float]:
        """Value by tag."""
        curves: dict[str, dict[str, float]] = {}
        parts: dict[str, list[str]] = {}
        # a summary spans all optimizers: two of them may hold components of the same part
        for entry in _leading(self.every if self.by_part else self.own):
            name = entry.title
            parts.setdefault(_part_of(entry), []).append(name)
            values = {"lr": entry.lr}
            values |= {f"strata/factor/{label}": factor for label, factor in entry.factors.items()}
            # a part is a stratum already, so its number would say nothing new
            if entry.stratum_number is not None and not self.by_part:
                values["strata/stratum"] = entry.stratum_number
            if self.frozen is not None:
                values["strata/frozen"] = float(entry.frozen)
            values |= {"strata.details/age": entry.age.epoch, "strata.details/base_lr": entry.base_lr}
            for kind, value in values.items():
                curves.setdefault(kind, {})[name] = value
        scalars = _by_part(curves, parts) if self.by_part else _by_component(curves)
        lrs = [entry.lr for entry in _leading(self.every)]
        scalars |= {f"strata/lr_range/{word}": summary(lrs) for word, summary in SUMMARIES.items() if lrs}
        if self.frozen is not None:
            scalars["strata/frozen_share/parameters"] = self.frozen.parameters
            if self.frozen.work is not None:
                scalars["strata/frozen_share/work"] = self.frozen.work
        return scalars

    def mean_lrs(self) -> dict[str, float]:
        """The mean effective lr of each part of the network."""
        parts: dict[str, list[float]] = {}
        for entry in _leading(self.every):
            parts.setdefault(_part_of(entry), []).append(entry.lr)
        return {part: fmean(lrs) for part, lrs in parts.items()}

    def tensors(self, table: LRTable) -> dict[str, list[Tensor]]:
        """The tensors of the optimizer that takes the step, by component or part.

        Args:
            table: The table of this optimizer.
        """
        groups: dict[str, GroupLR] = {}
        for entry in self.own:
            groups.setdefault(entry.group, entry)  # of several cohorts the oldest: norms are those of whole tensors
        tensors: dict[str, list[Tensor]] = {}
        for group, entry in groups.items():
            name = _part_of(entry) if self.by_part else entry.title
            tensors.setdefault(name, []).extend(table.groups.tensors_of(group))
        return tensors


def _leading(entries: Sequence[GroupLR]) -> list[GroupLR]:
    """One entry for each component, or for each of its cohorts: of the leading group."""
    return [entry for entry in entries if entry.leads]


def _part_of(entry: GroupLR) -> str:
    """The part of the network that a component belongs to: its stratum, else its role, else ``"others"``."""
    return entry.stratum or entry.component.role or "others"


def _by_component(curves: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{kind}/{name}": value for kind, values in curves.items() for name, value in values.items()}


def _by_part(curves: Mapping[str, Mapping[str, float]], parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    scalars: dict[str, float] = {f"strata/components/{part}": len(names) for part, names in parts.items()}
    for kind, values in curves.items():
        for part, names in parts.items():
            known = [values[name] for name in names if name in values]
            scalars |= {f"{kind}/{part}/{word}": summary(known) for word, summary in SUMMARIES.items() if known}
    return scalars
