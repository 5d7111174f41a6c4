"""The other callbacks of a Trainer: what the driver asks of them, and what stands behind them."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer

from structurenet_pl.components import first_wins
from structurenet_pl.lightning import Callback, LightningModule, Trainer


@runtime_checkable
class Companion(Protocol):
    """What the driver asks of the package's own callbacks; :class:`~structurenet_pl.driven.Driven` answers it."""

    patterns: Mapping[str, str]

    def before_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Called once for each step of each optimizer, also of those stepped by hand: gradients and lrs are final."""


def companions(trainer: Trainer) -> list[Companion]:
    """The package's own callbacks in a Trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Companion)]


def patterns_of(trainer: Trainer) -> dict[str, str]:
    """What the callbacks of the Trainer say about roles; the first to match a name wins."""
    return first_wins(*(callback.patterns for callback in companions(trainer)))


class Rear(Callback):
    """Stands behind all other callbacks but those that save.

    What the others write into an lr is the base of this very step, and what they ask for is in the next checkpoint.
    """

    def __init__(
        self,
        before_step: Callable[[Trainer, LightningModule, Optimizer], None],
        meet: Callable[[LightningModule], None],
    ) -> None:
        self._before_step = before_step
        self._meet = meet

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The last hook of all callbacks before the update."""
        self._before_step(trainer, pl_module, optimizer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The ranks meet at the end of a validation."""
        self._meet(pl_module)
