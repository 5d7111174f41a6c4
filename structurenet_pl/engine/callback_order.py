"""The order of callbacks in a Trainer, and the helper callbacks that stand between those of the user."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from structurenet_pl.engine.package_callbacks import BeforeStep
from structurenet_pl.lightning import LR_MONITORS, Callback, LightningModule, Trainer, has_hook
from structurenet_pl.optim.schedulers import SchedulerRedirection


class LastHook(Callback):
    """Runs after all other callbacks except those that save checkpoints.

    An lr that another callback writes before a step is thus the base lr of that step, and growth that another callback
    asks for at the end of a validation is in the checkpoint written there.

    Args:
        before_step: Called before each update, after the same hook of the other callbacks.
        at_validation_end: Called at the end of each validation, where all ranks are at the same point.
    """

    def __init__(self, before_step: BeforeStep, at_validation_end: Callable[[LightningModule], None]) -> None:
        self._before_step = before_step
        self._at_validation_end = at_validation_end

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients and lrs are final after the other callbacks."""
        self._before_step(trainer, pl_module, optimizer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All ranks have finished the validation."""
        self._at_validation_end(pl_module)


class CallAtStarts(Callback):
    """Calls a function at the start of training, of each epoch and of each batch: where lr monitors log.

    Args:
        act: The function.
    """

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training starts."""
        self._act()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch starts."""
        self._act()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch starts."""
        self._act()


def lrs_matter_before_step(trainer: Trainer, driver: Callback) -> bool:
    """Whether lrs matter between the gradients and the update, and not just in the update itself.

    They do if anybody else has a hook there, and in manual optimization, where an update moves the clock in the middle
    of a batch.
    """
    module, helpers = trainer.lightning_module, (type(driver), LastHook)
    owners = [module, *(callback for callback in trainer.callbacks if not isinstance(callback, helpers))]
    names = ("on_before_optimizer_step", "configure_gradient_clipping")
    return not module.automatic_optimization or any(has_hook(owner, name) for owner in owners for name in names)


def in_order(
    trainer: Trainer, driver: Callback, last_hook: LastHook, schedulers: SchedulerRedirection
) -> list[Callback]:
    """The callbacks of a Trainer: driver, lr monitors, all others, last hook, callbacks that save checkpoints.

    Args:
        trainer: The Trainer.
        driver: The driver of the Trainer; other drivers are left out.
        last_hook: The callback that runs after the others.
        schedulers: Refer to stand-ins with the user's groups, and to the optimizers while the lr monitors log: these
            read the optimizers through the schedulers.
    """
    savers = trainer.checkpoint_callbacks
    # helpers of an earlier fit are left out: they refer to the driver and the tables of that fit
    ours = (type(driver), LastHook, CallAtStarts)
    others = [callback for callback in trainer.callbacks if not isinstance(callback, ours) and callback not in savers]
    monitors = [callback for callback in others if isinstance(callback, LR_MONITORS)]
    rest = [callback for callback in others if not isinstance(callback, LR_MONITORS)]
    if monitors:
        # grouped, because all other callbacks must find the user's groups behind the schedulers
        monitors = [CallAtStarts(schedulers.show_optimizers), *monitors, CallAtStarts(schedulers.show_user_groups)]
    return [driver, *monitors, *rest, last_hook, *savers]
