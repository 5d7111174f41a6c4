"""Why each learning rate is what it is, as data and as a table."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from lightning.pytorch import Trainer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.optim import Optimizer

from structurenet_pl.callbacks.sedimentary import SedimentaryDecay
from structurenet_pl.driver import Driver
from structurenet_pl.events import Clock, Component


@dataclass(frozen=True)
class Rate:
    """The learning rate of one component, and what it is made of.

    Args:
        component: The component.
        age: How long it has been able to train.
        parameters: Number of its parameters in the optimizer.
        base_lr: What optimizer and scheduler alone would give.
        factors: What each callback multiplies it by.
        lr: The effective lr, as it stands in the optimizer.
        stratum: Name of the stratum it has reached, None without :class:`~structurenet_pl.SedimentaryDecay`.
        stratum_number: Number of this stratum, from 0; None for a role with a factor of its own.
    """

    component: Component
    age: Clock
    parameters: int
    base_lr: float
    factors: Mapping[str, float]
    lr: float
    stratum: str | None
    stratum_number: int | None


def rates(trainer: Trainer, optimizers: Iterable[Optimizer] | None = None) -> list[Rate]:
    """The learning rates of all components in order of depth.

    A component with several param groups is represented by its first, see ``LRFactor.skip_1d``.

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
            slot = board.leading(component.name)
            if slot is None:
                continue
            mine = {slot.name for slot in board.slots.values() if slot.component == component.name}
            own = [group for group in optimizer.param_groups if group.get("name") in mine]
            found.append(
                Rate(
                    component,
                    now.age(component),
                    sum(tensor.numel() for group in own for tensor in group["params"]),
                    board.base(slot.name),
                    board.factors(slot.name),
                    board.lr(slot.name),
                    stratum,
                    names.index(stratum) if stratum in names else None,
                )
            )
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
    for heading in ("component", "role", "stratum"):
        table.add_column(heading, no_wrap=True)
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", label) for label in labels]
    for heading in ("depth", "age\n(epochs)", "params", "base lr", *words, "effective\nlr"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rate in found:
        table.add_row(
            rate.component.name,
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
