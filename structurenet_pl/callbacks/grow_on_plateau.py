"""GrowOnPlateau: call a growth method when a validation metric stops improving."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from structurenet_pl.callbacks.growth_trigger import GrowthTrigger
from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Callback, LightningModule, MisconfigurationException, Trainer, rank_zero_warn
from structurenet_pl.structure.arguments import check_at_least
from structurenet_pl.structure.events import GrowthEvent


@dataclass
class _PlateauState:
    """State of the trigger in checkpoints: plain values only. The field names are keys in checkpoints."""

    best: float | None = None  # None before the first finite value
    waited: int = 0  # validations without improvement
    cooling: int = 0  # validations until the end of the cooldown
    grown: int = 0  # growths requested
    owed: bool = False  # a growth was requested and waits for a safe moment


class GrowOnPlateau(GrowthTrigger):
    """Call a growth method of the module whenever a validation metric has stopped improving.

    A validation improves if its metric is finite and exceeds the best earlier value by more than ``min_delta``, in the
    direction of ``mode``. After ``patience`` consecutive validations without improvement the module grows, and the
    count of validations starts again. The best value is kept over a growth, as ``ReduceLROnPlateau`` keeps it over a
    reduction. The grown network has to beat this value, and has ``cooldown + patience`` validations to do so.

    Every validation of a fit counts, except the sanity check. The module grows at the end of the validation. In the
    middle of gradient accumulation it grows after the next update, and under DDP at the next end of a validation or
    epoch. With several processes, the metric of the first process decides.

    A run that resumes from the end of a validation or epoch grows exactly as an uninterrupted run. For this reason a
    growth that is due at the last validation is carried out too. There is one exception: a checkpoint written between
    the last batch of an epoch and its validation, as by ``ModelCheckpoint(every_n_train_steps=...)``. Lightning skips
    this validation when it resumes, so the trigger does not count it.

    Args:
        growth: Name of the growth method.
        monitor: Name of the metric, as logged by the module.
        patience: Number of validations without improvement after which the module grows.
        min_delta: Threshold that an improvement must exceed, in units of the metric, >= 0.
        mode: ``"min"``: lower is better; ``"max"``: higher is better.
        cooldown: Number of validations after a growth that do not count as validations without improvement; they may
            still set a new best value.
        limit: Number of growths by this trigger after which it stops; None for no limit.
        arguments: Arguments of the growth method, plain values by name.

    Raises:
        ValueError: If ``patience`` or ``limit`` is not a positive whole number, ``cooldown`` is not a whole number
            >= 0, ``min_delta`` is negative, or ``mode`` is unknown.
        AttributeError: At the start of the fit, if the module has no growth method of this name.
        TypeError: At the start of the fit, if the arguments do not fit the growth method.
        MisconfigurationException: At the start of the fit, if another trigger has the same growth, monitor and
            arguments, since a checkpoint cannot tell the two apart (the Trainer itself may raise first). At the end of
            the first validation, if no metric has the name ``monitor``.

    Example:
        >>> from structurenet_pl import GrowOnPlateau
        >>> trigger = GrowOnPlateau("add_patch", "val_loss", patience=5, cooldown=2, limit=3, arguments={"at": 2})
        >>> trigger.state_dict()["waited"]
        0
    """

    def __init__(
        self,
        growth: str,
        monitor: str,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] = "min",
        cooldown: int = 0,
        limit: int | None = None,
        arguments: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(growth, limit, arguments)
        check_at_least(1, {"patience": patience})
        check_at_least(0, {"cooldown": cooldown, "min_delta": min_delta})  # a threshold, in either mode
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.cooldown = cooldown
        self._state = _PlateauState()

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints."""
        return self._generate_state_key(growth=self.growth, monitor=self.monitor, arguments=self.arguments)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the counters."""
        return asdict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value and the counters."""
        self._state = _PlateauState(**state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the configuration, move this callback to the front, and reset its state for a new fit."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if [callback.state_key for callback in trainer.callbacks].count(self.state_key) > 1:
            raise MisconfigurationException(
                f"the Trainer has two {self.state_key}, and a checkpoint cannot tell them apart: give them different "
                "arguments, or remove one of them."
            )
        if not trainer.enable_validation:
            rank_zero_warn(
                "GrowOnPlateau will never grow, because this fit has no validation: give the Trainer validation data, "
                "or use GrowEvery."
            )
        # Triggers come first, so that a checkpoint of the same moment holds the growth and, without DDP, early stopping
        # acts after the growth.
        trainer.callbacks = sorted(trainer.callbacks, key=_priority)
        # setup() runs before Lightning restores a checkpoint, so this cannot overwrite restored state. A Trainer that
        # continues after an earlier fit has global_step > 0, and then the state is kept.
        if trainer.global_step == 0:
            self._state = _PlateauState()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Request a growth again that was waiting when the checkpoint was written."""
        if self._state.owed:
            self.grow(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validation, and grow if patience has run out."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        limit_reached = self.limit is not None and self._state.grown >= self.limit
        # A limit that is reached skips the broadcast, too: `grown` is the same in all processes.
        if not limit_reached and self._patience_runs_out(self._monitored_value(trainer)):
            self._state.owed = True
            self.grow(pl_module)

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """Note that the requested growth has been carried out."""
        if (event.method, event.asked_by) != (self.growth, type(self).__name__):
            return
        # the method may have decided arguments itself, so they count only where triggers share it
        triggers = [callback for callback in trainer.callbacks if isinstance(callback, GrowOnPlateau)]
        is_shared = [trigger.growth for trigger in triggers].count(self.growth) > 1
        asked = self.complete_arguments(pl_module)
        if not is_shared or all(value is None or event.arguments[name] == value for name, value in asked.items()):
            self._state.owed = False

    def _monitored_value(self, trainer: Trainer) -> float:
        """Return the metric of the first process, in all processes."""
        metrics = trainer.callback_metrics
        local_value = float(metrics[self.monitor]) if self.monitor in metrics else None
        # the broadcast comes before the error, so that all processes raise the error and none waits for the others
        value: float | None = trainer.strategy.broadcast(local_value)
        if value is None:
            raise MisconfigurationException(
                f"GrowOnPlateau monitors {self.monitor!r}, but the metrics after validation are {sorted(metrics)}: log "
                f"{self.monitor!r} in the module, or monitor one of these."
            )
        return value

    def _patience_runs_out(self, value: float) -> bool:
        """Count one validation; return whether the module has to grow after it."""
        state = self._state
        if self._improves(value):
            state.best, state.waited = value, 0
        elif not state.cooling:
            state.waited += 1
        state.cooling = max(0, state.cooling - 1)
        if state.waited < self.patience:
            return False
        state.waited, state.cooling, state.grown = 0, self.cooldown, state.grown + 1
        return True

    def _improves(self, value: float) -> bool:
        best = self._state.best
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta


def _priority(callback: Callback) -> int:
    """Return the place of a callback in the Trainer: the driver (if there is one), then triggers, then the rest."""
    return 0 if isinstance(callback, Driver) else 1 if isinstance(callback, GrowOnPlateau) else 2
