"""A progress bar for scripts that fit several times: one line for each fit, which vanishes when the fit is over."""

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress


class EpochBar(Callback):
    """Count the epochs of a fit on stderr, if that is a terminal.

    Args:
        title: What is being trained.
    """

    def __init__(self, title: str) -> None:
        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(title)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.update(self._task, total=trainer.max_epochs, completed=trainer.current_epoch)
        self._bar.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.advance(self._task)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.stop()
