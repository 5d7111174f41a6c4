"""The learning rate of each param group as data, with every number that it is made of."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import NamesStrata, Vector
from structurenet_pl.learning_rates.lr_table import LRTable
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.param_groups import leading_groups
from structurenet_pl.structure.cohorts import entry_counts
from structurenet_pl.structure.events import Clock, Component, cohort_number, cohort_title, titles
from structurenet_pl.structure.partition import Structure, parameter_count


@dataclass(frozen=True)
class GroupLR:
    """The learning rate of one param group, or of one cohort in it, and the numbers that it is made of.

    Args:
        component: The component that the group belongs to; for a cohort, with the birth and the role of the cohort.
        title: Name of the component, with a number if removed components had the name before, and with ``@3`` for the
            cohort that growth event 3 added.
        group: Name of the group: the component's name, with a suffix if the component has several groups.
        cohort: Number of the growth event that added the cohort; None for a whole group, and for the entries that were
            born with the component.
        leads: Whether the group stands for the component in logs: its first group, if possible one with tensors of
            several dimensions.
        age: Time since the component, or the cohort, has been able to train.
        parameters: Number of parameters in the group, or of the entries of the cohort in it.
        base_lr: The lr that optimizer and scheduler alone would give.
        factors: The factor of each callback, by class name.
        lr: The effective lr. In the optimizer stands that of the fastest cohort.
        stratum: Name of the stratum of the component or cohort, None without ``SedimentaryDecay``.
        stratum_number: Number of this stratum, from 0; None for a role with a factor of its own.
        frozen: Whether the component is frozen; its lr has no effect then. It is frozen only if all of its cohorts have
            factor 0; a single cohort has lr 0.
        trained: Whether a parameter of the group requires a gradient. None does in a frozen component, or where the
            user has called ``requires_grad_(False)``.
    """

    component: Component
    title: str
    group: str
    cohort: int | None
    leads: bool
    age: Clock
    parameters: int
    base_lr: float
    factors: Mapping[str, float]
    lr: float
    stratum: str | None
    stratum_number: int | None
    frozen: bool
    trained: bool


def group_lrs(trainer: Trainer, driver: Driver, optimizer: Optimizer) -> list[GroupLR]:
    """The learning rates in the table of an optimizer, by component in order of depth.

    A component whose cohorts differ, or have differed before, has an entry for each cohort, the oldest first.

    Args:
        trainer: A Trainer during a fit or after it.
        driver: Its driver.
        optimizer: One of its optimizers.
    """
    table, now = driver.tables[optimizer], driver.moment(trainer)
    leads = set(leading_groups(table.groups.group_infos.values()).values())
    decays = [factor for factor in driver.factors.values() if isinstance(factor, NamesStrata)]
    titled = dict(zip(driver.structure.components, titles(driver.structure.by_depth, now.log), strict=True))
    shown = titles_shown_by_cohort(trainer)
    by_cohort = table.matrix.differing | {name for name, title in titled.items() if title in shown}
    infos = [table.groups.group_infos[name] for name in table.matrix.piece_names]
    rows = zip(infos, table.base_lrs.of_pieces(), table.lrs, strict=True)
    entries = []
    for row, (info, base, lr) in enumerate(rows):
        component = driver.structure.components.get(info.component)
        trained = any(tensor.requires_grad for tensor in optimizer.param_groups[row]["params"])
        if component is None or lr is None:  # parameters outside the module, or a group without an lr
            continue
        for part in _parts_of(table, row, component, driver.structure, component.name in by_cohort):
            if part.component is not component and not part.parameters and info.name not in leads:
                continue  # the entries of this cohort are in other groups
            decay = next((decay for decay in decays if decay.acts_on(part.component)), None)
            cohort = cohort_number(component, part.component.born.generation)
            # the lr of a piece may be a tensor of less precision than the product, so it is shown as it stands
            own_lr = lr if part.product == table.matrix.product[row] else base * part.product
            entries.append(
                GroupLR(
                    component=part.component,
                    title=cohort_title(titled[component.name], cohort, now.log),
                    group=info.name,
                    cohort=cohort,
                    leads=info.name in leads,
                    age=now.age(part.component),
                    parameters=part.parameters,
                    base_lr=float(base),
                    factors=dict(zip(driver.factors, part.factors.tolist(), strict=True)),
                    lr=float(own_lr),
                    stratum=decay.stratum(part.component, now) if decay else None,
                    stratum_number=decay.stratum_number(part.component, now) if decay else None,
                    frozen=component.name in driver.frozen.components,
                    trained=trained,
                )
            )
    return sorted(entries, key=lambda entry: driver.factors.rows[entry.component.name])


def titles_shown_by_cohort(trainer: Trainer) -> set[str]:
    """The titles of the components whose cohorts a StrataMonitor of the Trainer has shown before."""
    # by attribute: this folder stands below callbacks, so it cannot import StrataMonitor
    return {title for callback in trainer.callbacks for title in getattr(callback, "shown_by_cohort", ())}


class _Part(NamedTuple):
    """A component, or one of its cohorts, in a group: number of parameters, factors and their product."""

    component: Component
    parameters: int
    factors: Vector
    product: float


def _parts_of(table: LRTable, row: int, component: Component, structure: Structure, by_cohort: bool) -> list[_Part]:
    """The cohorts of a component in a group, or the component as a whole.

    Args:
        table: The table of the optimizer.
        row: Row of the group.
        component: The component.
        structure: Holds the cohorts.
        by_cohort: Whether the cohorts are wanted.
    """
    matrix, tensors = table.matrix, table.optimizer.param_groups[row]["params"]
    if not by_cohort or row not in matrix.cohorts:
        return [_Part(component, parameter_count(tensors), matrix.values[row], float(matrix.product[row]))]
    counts = Counter[int]()
    for tensor in tensors:
        generations = structure.generations.get(tensor)
        born_with_it = {component.born.generation: parameter_count([tensor])}
        counts.update(born_with_it if generations is None else entry_counts(generations))
    rows = {cohort: matrix.cohorts[row][cohort.born.generation] for cohort in structure.cohorts[component.name]}
    return [
        _Part(cohort, counts[cohort.born.generation], matrix.every_value[own], float(matrix.every_product[own]))
        for cohort, own in rows.items()
    ]
