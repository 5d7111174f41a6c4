"""Why each learning rate is what it is, as data and as a table."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from lightning.pytorch import Trainer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.driver import Driver
from structurenet_pl.events import Clock, Component


@dataclass(frozen=True)
class Rate:
    """The learning rate of one param group, and what it is made of.

    Args:
        component: The component that the group belongs to.
        group: Name of the group: the component's, or with what sets it apart from the component's other groups.
        leads: Whether it speaks for the component: its first group, if possible one with tensors of several dimensions.
        age: How long the component has been able to train.
        parameters: Number of parameters in the group.
        base_lr: What optimizer and scheduler alone would give.
        factors: What each callback multiplies it by.
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


def rates(trainer: Trainer, optimizers: Iterable[Optimizer] | None = None) -> list[Rate]:
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
    found = []
    for component in now.spine:
        decay = next((decay for decay in decays if decay.acts_on(component)), None)
        stratum = decay.stratum(component, now) if decay else None
        names = [name for name, _, _ in decay.strata] if decay else []
        for optimizer in driver.boards if optimizers is None else optimizers:
            board = driver.boards[optimizer]
            sizes = {group.get("name"): sum(map(Tensor.numel, group["params"])) for group in optimizer.param_groups}
            found += [
                Rate(
                    component,
                    slot.name,
                    slot == board.leading(component.name),
                    now.age(component),
                    sizes[slot.name],
                    board.base(slot.name),
                    board.factors(slot.name),
                    board.lr(slot.name),
                    stratum,
                    names.index(stratum) if stratum in names else None,
                )
                for slot in board.slots.values()
                if slot.component == component.name
            ]
    return found


def explain(trainer: Trainer, console: Console | None = None) -> list[Rate]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    Args:
        trainer: A Trainer in a fit or after it.
        console: Where to print, None for standard output.

    Raises:
        ValueError: If no callback of this package has been at work in the Trainer.
    """
    found = rates(trainer)
    labels = list(dict.fromkeys(label for rate in found for label in rate.factors))
    table = Table(title=f"Learning rates at step {trainer.global_step}, epoch {trainer.current_epoch}", box=SIMPLE)
    for heading in ("component, group", "role", "stratum"):
        table.add_column(heading, no_wrap=True)
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", label) for label in labels]
    for heading in ("depth", "age\n(epochs)", "params", "base lr", *words, "effective\nlr"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rate in found:
        table.add_row(
            rate.group,
            rate.component.role or "",
            rate.stratum or "",
            str(rate.component.depth),
            str(rate.age.epoch),
            f"{rate.parameters:,}",
            f"{rate.base_lr:.3g}",
            *(f"{rate.factors[label]:.3g}" if label in rate.factors else "" for label in labels),
            f"{rate.lr:.3g}",
        )
    console = console or Console()
    if not console.is_terminal:  # a file is as wide as what is written to it
        unlimited = console.options.update(max_width=10_000)
        console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)
    for note in cast(Driver, Driver.of(trainer)).notes:
        console.print(note, soft_wrap=True)
    return found
