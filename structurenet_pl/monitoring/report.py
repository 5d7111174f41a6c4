"""The public ``explain``: a printed table that says why each learning rate is what it is."""

import re
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from structurenet_pl.engine.driver import Driver
from structurenet_pl.engine.fit_warnings import shared_basis
from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.group_lrs import GroupLR, group_lrs

UNLIMITED_WIDTH = 10_000  # characters, more than any table needs


def explain(trainer: Trainer, console: Console | None = None) -> list[GroupLR]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    It may be called in any hook from ``on_fit_start`` on; of several processes only the first prints.

    After a fit these are the learning rates that a next step would have; the log of
    ``StrataMonitor`` holds the learning rates that each step used.

    Args:
        trainer: A Trainer during a fit or after it.
        console: The console to print to, None for standard output. On a narrow console the table is as wide as it
            needs to be.

    Returns:
        An entry for each param group, with ``component``, ``title``, ``group``, ``age``, ``parameters``, ``base_lr``,
        ``factors``, ``lr``, ``stratum`` and ``frozen``. A component that was widened has an entry for each cohort, such
        as ``body.0`` and ``body.0@3`` for the entries that growth event 3 added, if their learning rates differ, or
        have differed before in the record of a ``StrataMonitor``.

    Raises:
        ValueError: If no callback of this package has acted in the Trainer.
    """
    driver = Driver.of(trainer)
    if driver is None or not driver.tables:
        raise ValueError(
            "the Trainer holds no learning rates of components: give it an LR callback of structurenet_pl, or a "
            "GrowableModule, and call fit first"
        )
    entries: list[GroupLR] = []
    for optimizer, table in driver.tables.items():
        table.refresh()  # the user may just have written an lr, which is the new base
        entries += group_lrs(trainer, driver, optimizer)
    entries.sort(key=lambda entry: driver.factors.rows[entry.component.name])
    if trainer.is_global_zero:
        title = f"Learning rates as they stand at step {trainer.global_step} (epoch {trainer.current_epoch})"
        console = console or Console()
        _print_in_full_width(_as_table(entries, title), console)
        notes = shared_basis(driver.factors.basis, driver.factors.acting)
        for note in [*notes, *_frozen_share(driver.frozen, len(driver.structure.components))]:
            console.print(note, soft_wrap=True)
    return entries


def _as_table(entries: Sequence[GroupLR], title: str) -> Table:
    """A row for each group or cohort; columns of words only where one of them has a word."""
    labels = list(dict.fromkeys(label for entry in entries for label in entry.factors))
    words = {
        "component, group": [_group_and_cohort(entry) for entry in entries],
        "role": [entry.component.role or "" for entry in entries],
        "stratum": [entry.stratum or "" for entry in entries],
    }
    shown = {heading: texts for heading, texts in words.items() if any(texts)}
    table = Table(title=title, box=SIMPLE)
    for heading in shown:
        table.add_column(heading, no_wrap=True)
    broken = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", label) for label in labels]  # SedimentaryDecay in two lines
    for heading in ("depth", "age\n(epochs)", "params", "base lr", *broken, "effective\nlr"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, entry in enumerate(entries):
        table.add_row(
            *(texts[row] for texts in shown.values()),
            str(entry.component.depth),
            str(entry.age.epoch),
            f"{entry.parameters:,}",
            f"{entry.base_lr:.3g}",
            *(f"{entry.factors[label]:.3g}" if label in entry.factors else "" for label in labels),
            "frozen" if entry.frozen else f"{entry.lr:.3g}",
        )
    return table


def _group_and_cohort(entry: GroupLR) -> str:
    """The name of a group; for a cohort with the end of its title, such as ``@3``."""
    return entry.group if entry.cohort is None else f"{entry.group}@{entry.title.rpartition('@')[2]}"


def _print_in_full_width(table: Table, console: Console) -> None:
    """Print a table without cutting numbers off: rich would shorten them on a narrow console."""
    width, unlimited = console.width, console.options.update(max_width=UNLIMITED_WIDTH)
    console.width = max(width, console.measure(table, options=unlimited).maximum)
    console.print(table)
    console.width = width


def _frozen_share(frozen: Frozen, component_count: int) -> list[str]:
    """A line that says how much is frozen, none if nothing is."""
    if not frozen.components:
        return []
    parts = [f"{len(frozen.components)} of {component_count} components", f"{frozen.parameters:.0%} of the parameters"]
    if frozen.work is not None:
        parts.append(f"saves {frozen.work:.0%} of the work of a step")
    return [f"frozen: {', '.join(parts)}"]
