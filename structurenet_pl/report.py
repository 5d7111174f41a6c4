"""Why each learning rate is what it is, as data and as a table."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.optim import Optimizer

from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.checks import shared_basis
from structurenet_pl.driver import Driver
from structurenet_pl.events import Clock, Component
from structurenet_pl.lightning import Trainer


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


def group_lrs(trainer: Trainer, optimizers: Iterable[Optimizer] | None = None) -> list[GroupLR]:
    """The learning rates of all param groups, by component in order of depth.

    Args:
        trainer: A Trainer in a fit or after it.
        optimizers: Those of interest, None for all.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    driver = Driver.of(trainer)
    if driver is None or not driver.boards:
        raise ValueError(
            "the Trainer holds no learning rates of components: give it an LR callback of structurenet_pl, or a "
            "GrowableModule, and call fit first"
        )
    now = driver.moment(trainer)
    decays = [factor for factor in driver.factors.values() if isinstance(factor, SedimentaryDecay)]
    order = {component.name: position for position, component in enumerate(now.spine)}
    found = []
    for optimizer in driver.boards if optimizers is None else optimizers:
        board = driver.boards[optimizer]
        leading, bases = board.leading(), board.bases()
        for group in optimizer.param_groups:
            slot = board.slots.get(group.get("name", ""))
            if slot is None or slot.component not in order:
                continue
            component = now.spine[order[slot.component]]
            decay = next((decay for decay in decays if decay.acts_on(component)), None)
            found.append(
                GroupLR(
                    component=component,
                    group=slot.name,
                    leads=leading[component.name] == slot.name,
                    age=now.age(component),
                    parameters=sum(tensor.numel() for tensor in group["params"]),
                    base_lr=bases[slot.name],
                    factors=board.factors(slot.name),
                    lr=float(group["lr"]),
                    stratum=decay.stratum(component, now) if decay else None,
                    stratum_number=decay.stratum_number(component, now) if decay else None,
                )
            )
    return sorted(found, key=lambda entry: order[entry.component.name])


def explain(trainer: Trainer, console: Console | None = None) -> list[GroupLR]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    After a fit these are the learning rates that a next step would have; what was used at each step is in the log of
    :class:`~structurenet_pl.StrataMonitor`.

    Args:
        trainer: A Trainer in a fit or after it.
        console: Where to print, None for standard output. On a narrow one the table is as wide as it needs to be.

    Returns:
        An entry for each param group, with ``component``, ``group``, ``age``, ``parameters``, ``base_lr``, ``factors``,
        ``lr`` and ``stratum``.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    found = group_lrs(trainer)
    labels = list(dict.fromkeys(label for entry in found for label in entry.factors))
    title = f"Learning rates of the next step, {trainer.global_step} (epoch {trainer.current_epoch})"
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
            f"{entry.lr:.3g}",
        )
    console = console or Console()
    before, unlimited = console.width, console.options.update(max_width=10_000)
    console.width = max(before, console.measure(table, options=unlimited).maximum)
    console.print(table)
    console.width = before
    factors = cast(Driver, Driver.of(trainer)).factors
    for note in shared_basis(factors.basis, factors.acting):
        console.print(note, soft_wrap=True)
    return found
