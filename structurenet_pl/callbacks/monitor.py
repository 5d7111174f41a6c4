"""What learned how fast, in every logger."""

from typing import Any

from torch.optim import Optimizer

from structurenet_pl.driven import Driven
from structurenet_pl.growing import growth_log
from structurenet_pl.lightning import LightningModule, Trainer, rank_zero_warn
from structurenet_pl.report import GroupLR, group_lrs


class StrataMonitor(Driven):
    """Log the learning rate of every component, and what it is made of, to all loggers of the Trainer.

    Each row holds what the optimizer used at that step:

    ============================== ===================================================================
    ``lr/<component>``             effective lr
    ``base_lr/<component>``        what optimizer and scheduler alone would give
    ``factor/<label>/<component>`` factor of one callback, by class name
    ``age/<component>``            age in epochs
    ``stratum/<component>``        stratum by number, 0 the first, with a :class:`SedimentaryDecay`
    ============================== ===================================================================

    Of a component with several groups (decay / no decay, tensors of one dimension under LARS) the leading one is
    logged, the first with tensors of several dimensions; ``explain`` shows them all.

    A row is written every ``log_every_n_steps`` steps of the Trainer, and at the first step after each growth event;
    nothing is written of a component before its birth.

    Example:
        >>> from structurenet_pl import StrataMonitor, Warmup
        >>> callbacks = [Warmup(), StrataMonitor()]
    """

    def __init__(self) -> None:
        self._due = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if there is nowhere to log to."""
        if not trainer.loggers:
            rank_zero_warn("StrataMonitor has no logger to write to: give the Trainer one, or leave the callback out")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Decide for the whole batch, in which several optimizers may take a step."""
        every = trainer.log_every_n_steps
        steps = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning's own logging goes by
        grown = {event.clock.step for event in growth_log(pl_module)}
        self._due = bool(every) and ((steps + 1) % every == 0 or trainer.global_step in grown)

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The lrs of this step stand in the optimizer."""
        if not self._due:
            return
        found = [entry for entry in group_lrs(trainer, [optimizer]) if entry.leads]
        row = {tag: value for entry in found for tag, value in _scalars(entry).items()}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)


def _scalars(entry: GroupLR) -> dict[str, Any]:
    name = entry.component.name
    factors = {f"factor/{label}/{name}": factor for label, factor in entry.factors.items()}
    stratum = {} if entry.stratum_number is None else {f"stratum/{name}": entry.stratum_number}
    return {
        f"lr/{name}": entry.lr,
        f"base_lr/{name}": entry.base_lr,
        f"age/{name}": entry.age.epoch,
        **factors,
        **stratum,
    }
