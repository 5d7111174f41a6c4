"""The other callbacks of a Trainer: what the driver asks of them, and what stands behind them."""

import json
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from structurenet_pl.distributed.communication import check_equal_reports, gather_from_all_ranks
from structurenet_pl.distributed.ddp import is_ddp
from structurenet_pl.learning_rates.factors import Factor
from structurenet_pl.lightning import LR_MONITORS, Callback, LightningModule, Trainer
from structurenet_pl.structure.role_patterns import merge_patterns

BeforeStep = Callable[[Trainer, LightningModule, Optimizer], None]


@runtime_checkable
class PackageCallback(Protocol):
    """What the driver asks of each callback of this package; the base class ``NeedsDriver`` answers it."""

    patterns: Mapping[str, str]
    before_step: BeforeStep | None


@runtime_checkable
class AsksForGrowth(Protocol):
    """A callback that asks for growth."""

    growth: str
    by_clock: bool


def package_callbacks(trainer: Trainer) -> list[PackageCallback]:
    """The package's own callbacks in a Trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, PackageCallback)]


def patterns_of(trainer: Trainer) -> dict[str, str]:
    """What the callbacks of the Trainer say about roles; the first to match a name wins."""
    return merge_patterns(*(callback.patterns for callback in package_callbacks(trainer)))


def check_alike(trainer: Trainer) -> None:
    """Refuse factors, triggers and name patterns that another rank does not have, or with other settings.

    Raises:
        RuntimeError: On every rank, if there are any.
    """
    if is_ddp(trainer):
        check_equal_reports(gather_from_all_ranks(_settings(trainer), "starting the fit"), "at the start of the fit")


def _settings(trainer: Trainer) -> dict[str, str]:
    """The arguments of what acts on lrs and structure, as text that is the same in every process."""
    acting = [
        one for one in trainer.callbacks if isinstance(one, Factor | AsksForGrowth) or getattr(one, "patterns", None)
    ]
    return {
        f"{type(callback).__name__} ({number})": json.dumps(
            {key: vars(callback)[key] for key in signature(type(callback)).parameters if key in vars(callback)},
            default=lambda value: getattr(value, "__qualname__", type(value).__qualname__),
            skipkeys=True,
        )
        for number, callback in enumerate(acting)
    }


class LastHook(Callback):
    """Stands behind all other callbacks but those that save.

    What the others write into an lr is the base of this very step, and what they ask for is in the next checkpoint.
    """

    def __init__(
        self,
        before_step: BeforeStep,
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


class CallAtStarts(Callback):
    """Does something at the start of training, epochs and batches.

    Args:
        act: What it does.
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


def in_order(
    trainer: Trainer, driver: Callback, last_hook: LastHook, reveal: Callable[[], None], conceal: Callable[[], None]
) -> list[Callback]:
    """The callbacks of a Trainer in the order that ours need.

    The driver is first. Lightning's ``LearningRateMonitor``, which looks at optimizers through schedulers, comes before
    the others, and what saves checkpoints behind the rear.

    Args:
        trainer: The Trainer.
        driver: What is to be the driver; another one is left out.
        last_hook: The callback that runs after the others.
        reveal: Called before a monitor logs.
        conceal: Called when it has logged.
    """
    savers = trainer.checkpoint_callbacks
    ours = (type(driver), LastHook, CallAtStarts)
    others = [one for one in trainer.callbacks if not isinstance(one, ours) and one not in savers]
    monitors = [one for one in others if isinstance(one, LR_MONITORS)]
    rest = [one for one in others if not isinstance(one, LR_MONITORS)]
    monitors = [CallAtStarts(reveal), *monitors, CallAtStarts(conceal)] if monitors else []
    return [driver, *monitors, *rest, last_hook, *savers]
