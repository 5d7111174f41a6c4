"""ResetPatience: early stopping and plateau schedulers wait anew after each growth event."""

from torch.optim.lr_scheduler import ReduceLROnPlateau

from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.optim.references import reachable
from structurenet_pl.structure.arguments import ChecksArguments
from structurenet_pl.structure.events import GrowthEvent


class ResetPatience(ChecksArguments, Callback):
    """Reset the patience of early stopping and of plateau schedulers after each growth event.

    Growth disturbs the metrics for a while, and callbacks that count validations without improvement could take this
    for the end of progress. On each growth event this callback sets to 0:

    - ``wait_count`` of every ``EarlyStopping``;
    - ``num_bad_epochs`` of every ``ReduceLROnPlateau`` that ``configure_optimizers`` returns, also of one inside
      another scheduler, such as timm's.

    Best values are kept, as they are for the best checkpoint: the grown network has to beat the network before growth.
    A cooldown that is under way continues, because its end would start the count of bad epochs earlier.

    Growth often happens at the end of an epoch. The metric of this same epoch may then be the first that counts again.

    Args:
        early_stopping: Whether to reset ``EarlyStopping``.
        schedulers: Whether to reset plateau schedulers.

    Raises:
        ValueError: If both arguments are False.

    Example:
        >>> from structurenet_pl import GrowOnPlateau, ResetPatience
        >>> callbacks = [GrowOnPlateau("add_patch", "val_loss", arguments={"at": 2}), ResetPatience()]
    """

    def __init__(self, early_stopping: bool = True, schedulers: bool = True) -> None:
        if not (early_stopping or schedulers):
            raise ValueError(
                "early_stopping and schedulers are both False, so there is nothing to reset: set one of them to True, "
                "or leave the callback out"
            )
        self.early_stopping = early_stopping
        self.schedulers = schedulers

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """Set the counters to 0."""
        if self.early_stopping:
            for stopping in trainer.early_stopping_callbacks:
                stopping.wait_count = 0
        if self.schedulers:
            for config in trainer.lr_scheduler_configs:
                # a plateau scheduler may be an attribute of another one: timm and chained schedulers hold it so
                for scheduler in reachable([config.scheduler]):
                    if isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.num_bad_epochs = 0
