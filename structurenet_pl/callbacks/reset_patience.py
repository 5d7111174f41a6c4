"""Patience with a network that has just grown."""

from torch.optim.lr_scheduler import ReduceLROnPlateau

from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.optim.references import reachable
from structurenet_pl.structure.events import GrowthEvent


class ResetPatience(Callback):
    """Let early stopping and plateau schedulers wait anew after each growth event.

    What counts validations without improvement takes the shock of growth for the end of progress. On a growth event
    this sets ``wait_count`` of every ``EarlyStopping`` and ``num_bad_epochs`` of every ``ReduceLROnPlateau`` that
    ``configure_optimizers`` returns, timm's included, to 0. Best values are kept: a network that has grown has to
    beat what it was before, as it has for the best checkpoint. A cooldown that is under way goes on, since to end
    it would be less patient.

    Growth often happens at the end of an epoch, and the metric of that very epoch may be the first to count again.

    Args:
        early_stopping: Whether ``EarlyStopping`` waits anew.
        schedulers: Whether plateau schedulers do.

    Raises:
        ValueError: If nothing is to wait anew.

    Example:
        >>> from structurenet_pl import GrowOnPlateau, ResetPatience
        >>> callbacks = [GrowOnPlateau("add_patch", "val_loss", arguments={"at": 2}), ResetPatience()]
    """

    def __init__(self, early_stopping: bool = True, schedulers: bool = True) -> None:
        if not (early_stopping or schedulers):
            raise ValueError("early_stopping and schedulers are both off, so there is nothing to reset")
        self.early_stopping = early_stopping
        self.schedulers = schedulers

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """Forget what has been waited."""
        if self.early_stopping:
            for stopping in trainer.early_stopping_callbacks:
                stopping.wait_count = 0
        if self.schedulers:
            for config in trainer.lr_scheduler_configs:
                for scheduler in reachable([config.scheduler]):
                    if isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.num_bad_epochs = 0
