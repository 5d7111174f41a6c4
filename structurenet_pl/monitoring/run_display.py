"""Shows the structure and the pictures of a run while it trains: on the console and in TensorBoard."""

from collections.abc import Sequence

from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Trainer, rank_zero_info
from structurenet_pl.monitoring.growth_report import growth_report
from structurenet_pl.monitoring.run_record import RunRecord
from structurenet_pl.monitoring.tensorboard import (
    add_layout,
    can_draw,
    tensorboard_loggers,
    write_pictures,
    write_structure,
)
from structurenet_pl.monitoring.terminal import print_beside_bars
from structurenet_pl.structure.events import Component, GrowthEvent
from structurenet_pl.structure.partition import parameter_count


class RunDisplay:
    """Prints what grows, and writes layout, tables and pictures to TensorBoard.

    Args:
        record: The record of the run.
    """

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._announced_parts = False

    def begin_fit(self, trainer: Trainer) -> None:
        """Add our charts to TensorBoard."""
        for logger in tensorboard_loggers(trainer):
            add_layout(logger)

    def show_structure(self, trainer: Trainer, driver: Driver, max_components: int) -> None:
        """Write tables of the components and of the growth log to TensorBoard.

        Args:
            trainer: The Trainer, in a fit.
            driver: Its driver.
            max_components: Number of components above which parts of the network stand for them, which is said once.
        """
        structure = driver.structure
        if len(structure.components) > max_components and not self._announced_parts:
            self._announced_parts = True
            rank_zero_info(
                f"StrataMonitor logs parts of the network, because it has {len(structure.components)} components: for "
                "a curve of each component give it a higher max_components; explain(trainer) prints them all."
            )
        counts = {name: parameter_count(tensors.values()) for name, tensors in structure.parameters.items()}
        for logger in tensorboard_loggers(trainer):
            write_structure(logger, structure.components, counts, self._record.log, trainer.global_step)

    def print_growth(self, trainer: Trainer, driver: Driver, event: GrowthEvent, before: Sequence[Component]) -> None:
        """Print what a growth has changed.

        Args:
            trainer: The Trainer, in a fit.
            driver: Its driver.
            event: The growth event.
            before: The components before the event, in order of depth.
        """
        if trainer.is_global_zero:
            print_beside_bars(*growth_report(trainer, driver, event, before))

    def draw_after_growth(self, trainer: Trainer, event: GrowthEvent) -> None:
        """Draw the pictures after the growth events 1, 2, … 9, 10, 20, … 90, 100, 200 and so on."""
        if len(str(event.clock.generation).rstrip("0")) == 1:
            self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        """Draw the run so far."""
        loggers = tensorboard_loggers(trainer)
        if loggers and self._record.end_step and can_draw():
            write_pictures(loggers, self._record.to_history(), trainer.global_step)
