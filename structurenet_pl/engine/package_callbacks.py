"""The package's own callbacks in a Trainer: what the driver asks of them, and whether all ranks have the same."""

import json
from collections.abc import Callable
from inspect import signature
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from structurenet_pl.distributed.communication import check_equal_reports, gather_from_all_ranks
from structurenet_pl.distributed.supported_strategies import ranks_train_together
from structurenet_pl.learning_rates.factors import Factor
from structurenet_pl.lightning import LightningModule, Trainer
from structurenet_pl.structure.role_patterns import Given, Patterns, merge_patterns

BeforeStep = Callable[[Trainer, LightningModule, Optimizer], None]


@runtime_checkable
class PackageCallback(Protocol):
    """What the driver asks of each callback of this package; the base class ``NeedsDriver`` implements it."""

    patterns: Patterns
    before_step: BeforeStep | None


@runtime_checkable
class AsksForGrowth(Protocol):
    """A callback that asks for growth."""

    growth: str
    by_clock: bool


def package_callbacks(trainer: Trainer) -> list[PackageCallback]:
    """The package's own callbacks in a Trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, PackageCallback)]


def patterns_of(trainer: Trainer) -> dict[str, Given]:
    """Name pattern -> role, from all callbacks of the Trainer; the first pattern that matches a name wins."""
    return merge_patterns(*(callback.patterns for callback in package_callbacks(trainer)))


def check_same_callbacks_on_all_ranks(trainer: Trainer) -> None:
    """Refuse factors, triggers and name patterns that differ between ranks.

    Raises:
        RuntimeError: On every rank, if a callback is missing on a rank, or has other arguments there.
    """
    if ranks_train_together(trainer):
        check_equal_reports(gather_from_all_ranks(_arguments(trainer), "starting the fit"), "at the start of the fit")


def _arguments(trainer: Trainer) -> dict[str, str]:
    """The arguments of the callbacks that change lrs or structure, as text that is the same in every process."""
    acting = [
        callback
        for callback in trainer.callbacks
        if isinstance(callback, Factor | AsksForGrowth) or getattr(callback, "patterns", None)
    ]
    return {
        f"{type(callback).__name__} ({number})": json.dumps(
            arguments_of(callback),
            # by name, because the repr of a function or an object holds an address that differs between processes
            default=lambda value: getattr(value, "__qualname__", type(value).__qualname__),
            skipkeys=True,
        )
        for number, callback in enumerate(acting)
    }


def arguments_of(callback: object) -> dict[str, Any]:
    """The arguments with which a callback was made, as far as it keeps them under their names."""
    return {key: vars(callback)[key] for key in signature(type(callback)).parameters if key in vars(callback)}
