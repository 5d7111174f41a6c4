"""The public ``explain``: a printed table that says why each learning rate is what it is."""

from collections.abc import Sequence

from rich import get_console
from rich.console import Console
from rich.text import Text

from structurenet_pl.engine.driver import Driver
from structurenet_pl.engine.fit_warnings import shared_basis
from structurenet_pl.freezing.component_freezer import Frozen
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.group_lrs import GroupLR, group_lrs
from structurenet_pl.monitoring.rates_table import rates_table
from structurenet_pl.monitoring.terminal import print_beside_bars
from structurenet_pl.structure.listed_names import listed


def explain(trainer: Trainer, console: Console | None = None) -> list[GroupLR]:
    """Print a table that says why each learning rate is what it is, and return the same as data.

    It may be called in any hook from ``on_fit_start`` on; of several processes only the first prints.

    After a fit these are the learning rates that a next step would have; the log of ``StrataMonitor`` holds the
    learning rates that each step used.

    Args:
        trainer: A Trainer during a fit or after it.
        console: The console to print to, None for rich's global console, which prints to standard output. On a narrow
            console the table leaves out numbers of parameters, depths, and what is the same for all components, and
            says so; groups of a component that differ in name only share a row.

    Returns:
        An entry for each param group, with ``component``, ``title``, ``group``, ``age``, ``parameters``, ``base_lr``,
        ``factors``, ``lr``, ``stratum``, ``frozen`` and ``trained``. A component that was widened has an entry for each
        cohort, such as ``body.0`` and ``body.0@3`` for the entries that growth event 3 added, if their learning rates
        differ, or have differed before in the record of a ``StrataMonitor``.

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
        clock = driver.moment(trainer).clock
        over = trainer.state.finished  # then Lightning's clock shows the epoch that would follow
        when = f"that a next step would have ({clock})" if over else f"at {clock}"
        notes = [
            *shared_basis(driver.factors.basis, driver.factors.acting),
            *_frozen_share(driver.frozen, len(driver.structure.components)),
            *_not_trained(entries),
        ]
        console = console or get_console()
        print_beside_bars(
            Text(f"\nLearning rates {when}\n", style="bold"),
            *rates_table(entries, console),
            *map(Text, notes),
            "",
            console=console,
        )
    return entries


def _not_trained(entries: Sequence[GroupLR]) -> list[str]:
    """A line on components without gradients that no callback has frozen, none if there are none."""
    names = dict.fromkeys(entry.title for entry in entries if not entry.trained and not entry.frozen)
    return [f"not trained, because requires_grad is False: {listed(list(names))}"] if names else []


def _frozen_share(frozen: Frozen, component_count: int) -> list[str]:
    """A line that says how much is frozen, none if nothing is."""
    if not frozen.components:
        return []
    parts = [f"{len(frozen.components)} of {component_count} components", f"{frozen.parameters:.0%} of the parameters"]
    if frozen.work is not None:
        parts.append(f"saves {frozen.work:.0%} of a step's work")
    return [f"frozen: {', '.join(parts)}"]
