"""Why each learning rate is what it is, as data and as a table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.optim import Optimizer

from structurenet_pl.engine.driver import Driver
from structurenet_pl.engine.fit_warnings import shared_basis
from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.learning_rates.factors import NamesStrata
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.param_groups import leading_groups
from structurenet_pl.structure.events import Clock, Component, titles
from structurenet_pl.structure.partition import parameter_count


@dataclass(frozen=True)
class GroupLR:
    """The learning rate of one param group, and what it is made of.

    Args:
        component: The component that the group belongs to.
        title: Its name, with a number if others, which were removed, have had it before.
        group: Name of the group: the component's, or with what sets it apart from the component's other groups.
        leads: Whether it speaks for the component: its first group, if possible one with tensors of several dimensions.
        age: How long the component has been able to train.
        parameters: Number of parameters in the group.
        base_lr: What optimizer and scheduler alone would give.
        factors: What each callback multiplies it by, by class name.
        lr: The effective lr, as it stands in the optimizer.
        stratum: Name of the stratum it has reached, None without :class:`~structurenet_pl.SedimentaryDecay`.
        stratum_number: Number of this stratum, from 0; None for a role with a factor of its own.
        frozen: Whether the component is frozen: its lr counts for nothing then.
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
    """The learning rates of an optimizer as its table has them, by component in order of depth.

    Args:
        trainer: A Trainer in a fit or after it.
        driver: Its driver.
        optimizer: One of its optimizers.
    """
    table, now = driver.tables[optimizer], driver.moment(trainer)
    leads = set(leading_groups(table.groups.group_infos.values()).values())
    strata = decays(driver)
    components = driver.structure.by_depth
    titled = dict(zip(driver.structure.components, titles(components, now.log), strict=True))
    rows = zip(
        (table.groups.group_infos[name] for name in table.matrix.piece_names),
        optimizer.param_groups,
        table.base_lrs.of_pieces(),
        table.matrix.values.tolist(),
        table.lrs,
        strict=True,
    )
    found = []
    for slot, group, base, factors, lr in rows:
        component = driver.structure.components.get(slot.component)
        if component is None or lr is None:
            continue
        decay = next((one for one in strata if one.acts_on(component)), None)
        found.append(
            GroupLR(
                component=component,
                title=titled[component.name],
                group=slot.name,
                leads=slot.name in leads,
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
    return sorted(found, key=lambda entry: driver.factors.rows[entry.component.name])


def decays(driver: Driver) -> list[NamesStrata]:
    """The callbacks that say what stratum a component has reached; the first that acts on one counts."""
    return [factor for factor in driver.factors.values() if isinstance(factor, NamesStrata)]


def explain(trainer: Trainer, console: Console | None = None) -> list[GroupLR]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    It may be called in any hook from ``on_fit_start`` on; of several processes the first prints.

    After a fit these are the learning rates that a next step would have; what was used at each step is in the log of
    :class:`~structurenet_pl.StrataMonitor`.

    Args:
        trainer: A Trainer in a fit or after it.
        console: Where to print, None for standard output. On a narrow one the table is as wide as it needs to be.

    Returns:
        An entry for each param group, with ``component``, ``title``, ``group``, ``age``, ``parameters``, ``base_lr``,
        ``factors``, ``lr``, ``stratum`` and ``frozen``.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    driver = Driver.of(trainer)
    if driver is None or not driver.tables:
        raise ValueError(
            "the Trainer holds no learning rates of components: give it an LR callback of structurenet_pl, or a "
            "GrowableModule, and call fit first"
        )
    found: list[GroupLR] = []
    for optimizer, lr_table in driver.tables.items():
        lr_table.refresh()  # somebody may just have written an lr
        found += group_lrs(trainer, driver, optimizer)
    found.sort(key=lambda entry: driver.factors.rows[entry.component.name])
    if not trainer.is_global_zero:
        return found
    labels = list(dict.fromkeys(label for entry in found for label in entry.factors))
    title = f"Learning rates as they stand at step {trainer.global_step} (epoch {trainer.current_epoch})"
    table = Table(title=title, box=SIMPLE)
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", label) for label in labels]
    texts = {
        "component, group": lambda entry: entry.group,
        "role": lambda entry: entry.component.role or "",
        "stratum": lambda entry: entry.stratum or "",
    }
    shown = {heading: text for heading, text in texts.items() if any(map(text, found))}
    for heading in shown:
        table.add_column(heading, no_wrap=True)
    for heading in ("depth", "age\n(epochs)", "params", "base lr", *words, "effective\nlr"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in found:
        table.add_row(
            *(text(entry) for text in shown.values()),
            str(entry.component.depth),
            str(entry.age.epoch),
            f"{entry.parameters:,}",
            f"{entry.base_lr:.3g}",
            *(f"{entry.factors[label]:.3g}" if label in entry.factors else "" for label in labels),
            "frozen" if entry.frozen else f"{entry.lr:.3g}",
        )
    console = console or Console()
    before, unlimited = console.width, console.options.update(max_width=10_000)
    console.width = max(before, console.measure(table, options=unlimited).maximum)
    console.print(table)
    console.width = before
    notes = shared_basis(driver.factors.basis, driver.factors.acting)
    for note in [*notes, *_what_is_frozen(driver.frozen, len(driver.structure.components))]:
        console.print(note, soft_wrap=True)
    return found


def _what_is_frozen(frozen: Frozen, components: int) -> list[str]:
    """A line that says how much is frozen, if anything is."""
    if not frozen.components:
        return []
    parts = [f"{len(frozen.components)} of {components} components", f"{frozen.parameters:.0%} of the parameters"]
    if frozen.work is not None:
        parts.append(f"saves {frozen.work:.0%} of the work of a step")
    return [f"frozen: {', '.join(parts)}"]
