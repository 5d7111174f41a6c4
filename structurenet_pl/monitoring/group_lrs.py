"""The learning rate of each param group as data, with every number that it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.learning_rates.factors import NamesStrata
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.param_groups import leading_groups
from structurenet_pl.structure.events import Clock, Component, titles
from structurenet_pl.structure.partition import parameter_count


@dataclass(frozen=True)
class GroupLR:
    """The learning rate of one param group, and the numbers that it is made of.

    Args:
        component: The component that the group belongs to.
        title: Name of the component, with a number if removed components had the name before.
        group: Name of the group: the component's name, with a suffix if the component has several groups.
        leads: Whether the group stands for the component in logs: its first group, if possible one with tensors of
            several dimensions.
        age: Time since the component has been able to train.
        parameters: Number of parameters in the group.
        base_lr: The lr that optimizer and scheduler alone would give.
        factors: The factor of each callback, by class name.
        lr: The effective lr, as it stands in the optimizer.
        stratum: Name of the stratum of the component, None without :class:`~structurenet_pl.SedimentaryDecay`.
        stratum_number: Number of this stratum, from 0; None for a role with a factor of its own.
        frozen: Whether the component is frozen; its lr has no effect then.
    """

    component: Component
    title: str
    group: str
    leads: bool
    age: Clock
    parameters: int
    base_lr: float
    factors: Mapping[str, float]
    lr: float
    stratum: str | None
    stratum_number: int | None
    frozen: bool


def group_lrs(trainer: Trainer, driver: Driver, optimizer: Optimizer) -> list[GroupLR]:
    """The learning rates in the table of an optimizer, by component in order of depth.

    Args:
        trainer: A Trainer during a fit or after it.
        driver: Its driver.
        optimizer: One of its optimizers.
    """
    table, now = driver.tables[optimizer], driver.moment(trainer)
    leads = set(leading_groups(table.groups.group_infos.values()).values())
    decays = [factor for factor in driver.factors.values() if isinstance(factor, NamesStrata)]
    titled = dict(zip(driver.structure.components, titles(driver.structure.by_depth, now.log), strict=True))
    rows = zip(
        (table.groups.group_infos[name] for name in table.matrix.piece_names),
        optimizer.param_groups,
        table.base_lrs.of_pieces(),
        table.matrix.values.tolist(),
        table.lrs,
        strict=True,
    )
    entries = []
    for info, group, base, factors, lr in rows:
        component = driver.structure.components.get(info.component)
        if component is None or lr is None:  # parameters outside the module, or a group without an lr
            continue
        decay = next((decay for decay in decays if decay.acts_on(component)), None)
        entries.append(
            GroupLR(
                component=component,
                title=titled[component.name],
                group=info.name,
                leads=info.name in leads,
                age=now.age(component),
                parameters=parameter_count(group["params"]),
                base_lr=float(base),
                factors=dict(zip(driver.factors, factors, strict=True)),
                lr=float(lr),
                stratum=decay.stratum(component, now) if decay else None,
                stratum_number=decay.stratum_number(component, now) if decay else None,
                frozen=component.name in driver.frozen.components,
            )
        )
    return sorted(entries, key=lambda entry: driver.factors.rows[entry.component.name])
