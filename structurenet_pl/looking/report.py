"""Why each learning rate is what it is, as data and as a table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from structurenet_pl.checks import shared_basis
from structurenet_pl.components import count
from structurenet_pl.driver import Driver
from structurenet_pl.events import Clock, Component
from structurenet_pl.lightning import Trainer
from structurenet_pl.looking.rates import Reading, decay_of, decays
from structurenet_pl.surgery.freezing import Frozen
from structurenet_pl.surgery.param_groups import leading


@dataclass(frozen=True)
class GroupLR:
    """The learning rate of one param group, and what it is made of.

    Args:
        component: The component that the group belongs to.
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


def group_lrs(trainer: Trainer) -> list[GroupLR]:
    """The learning rates of all param groups, by component in order of depth.

    Args:
        trainer: A Trainer in a fit or after it.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    driver = Driver.of(trainer)
    if driver is None or not driver.boards:
        raise ValueError(
            "the Trainer holds no learning rates of components: give it an LR callback of structurenet_pl, or a "
            "GrowableModule, and call fit first"
        )
    strata = decays(driver)
    order = {component.name: position for position, component in enumerate(driver.structure.spine)}
    found = []
    for optimizer, board in driver.boards.items():
        board.refresh({})  # somebody may just have written an lr
        reading = Reading.of(driver, trainer, optimizer)
        leads = set(leading(reading.slots.values()).values())
        for group in optimizer.param_groups:
            slot = reading.slots.get(group.get("name", ""))
            if slot is None or slot.component not in order:
                continue
            component = reading.components[slot.component]
            decay = decay_of(component, strata)
            found.append(
                GroupLR(
                    component=component,
                    group=slot.name,
                    leads=slot.name in leads,
                    age=reading.now.age(component),
                    parameters=count(group["params"]),
                    base_lr=float(reading.rates.bases[slot.name]),
                    factors=reading.rates.factors.get(slot.name, {}),
                    lr=float(group["lr"]),
                    stratum=decay.stratum(component, reading.now) if decay else None,
                    stratum_number=decay.stratum_number(component, reading.now) if decay else None,
                    frozen=component.name in reading.frozen.components,
                )
            )
    return sorted(found, key=lambda entry: order[entry.component.name])


def explain(trainer: Trainer, console: Console | None = None) -> list[GroupLR]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    It may be called in any hook from ``on_fit_start`` on; of several processes the first prints.

    After a fit these are the learning rates that a next step would have; what was used at each step is in the log of
    :class:`~structurenet_pl.StrataMonitor`.

    Args:
        trainer: A Trainer in a fit or after it.
        console: Where to print, None for standard output. On a narrow one the table is as wide as it needs to be.

    Returns:
        An entry for each param group, with ``component``, ``group``, ``age``, ``parameters``, ``base_lr``, ``factors``,
        ``lr``, ``stratum`` and ``frozen``.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    found = group_lrs(trainer)
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
    driver = cast(Driver, Driver.of(trainer))
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
