"""When to grow, by how the training goes."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from structurenet_pl.callbacks.trigger import Trigger
from structurenet_pl.engine.driver import Driver
from structurenet_pl.lightning import Callback, LightningModule, MisconfigurationException, Trainer, rank_zero_warn
from structurenet_pl.structure.events import GrowthEvent, check_count


@dataclass
class _Record:
    """What the past validations have left: plain values, for checkpoints."""

    best: float | None = None  # None before the first finite value
    waited: int = 0
    cooling: int = 0
    grown: int = 0
    owed: bool = False  # a growth was asked for and waits for a safe moment


class GrowOnPlateau(Trigger):
    """Call a growth method of the module whenever a validation metric has stopped improving.

    A validation improves if its metric is finite and better than the best before by more than ``min_delta``. After
    ``patience`` validations in a row that do not, the module grows, and counting starts anew. The best value is kept
    over a growth, as ``ReduceLROnPlateau`` keeps it over a reduction: the grown network has to beat what was reached
    before, and has ``cooldown + patience`` validations for that.

    It counts whenever validation ends, however often that is, but for the sanity check, and grows there and then, or
    after the next update where an update is under way (under DDP at the next end of a validation or epoch). Where
    there are several processes, the metric of the first decides. A run that is resumed from the end of a validation
    or epoch grows exactly as one that never stopped; for the same reason a growth that is due at the last
    validation is carried out, too. A checkpoint written between the last batch of an epoch and its validation, as
    by ``ModelCheckpoint(every_n_train_steps=...)``, is another matter: Lightning leaves out that validation when it
    resumes, so it is not counted.

    Args:
        growth: Name of the growth method.
        monitor: Name of the metric, as logged by the module.
        patience: Number of validations without improvement after which the module grows.
        min_delta: What an improvement has to exceed, in units of the metric.
        mode: ``"min"``: lower is better; ``"max"``: higher is better.
        cooldown: Number of validations after a growth that may improve on the best but do not count against it.
        limit: Number of growths after which it stops, its own only; None for no end.
        arguments: What the method is called with, plain values by name.

    Raises:
        ValueError: If ``patience`` or ``limit`` is not a positive whole number, ``cooldown`` is not a whole number,
            ``min_delta`` is negative, or ``mode`` is unknown.
        AttributeError: At the start of the fit, if the module has no growth method of this name.
        TypeError: At the start of the fit, if the arguments do not fit the method.
        MisconfigurationException: At the start of the fit, if there is another one with the same growth, monitor and
            arguments, since a checkpoint could not tell them apart (the Trainer itself may say so first); at the end of
            the first validation, if there is no such metric.

    Example:
        >>> from structurenet_pl import GrowOnPlateau
        >>> trigger = GrowOnPlateau("add_patch", "val_loss", patience=5, cooldown=2, limit=3, arguments={"at": 2})
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
        check_count("patience", patience)
        check_count("cooldown", cooldown, least=0)
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be >= 0 in either mode, got {min_delta!r}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.cooldown = cooldown
        self._record = _Record()

    @property
    def state_key(self) -> str:
        """What checkpoints call it."""
        return self._generate_state_key(growth=self.growth, monitor=self.monitor, arguments=self.arguments)

    def state_dict(self) -> dict[str, Any]:
        """What it has to remember."""
        return asdict(self._record)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        self._record = _Record(**state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start anew unless the Trainer goes on, and step in front of whoever else waits for the end of validation."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if [callback.state_key for callback in trainer.callbacks].count(self.state_key) > 1:
            raise MisconfigurationException(
                f"there are two {self.state_key}, which a checkpoint could not tell apart: give them other arguments, "
                "or leave one out."
            )
        if not trainer.enable_validation:
            rank_zero_warn("GrowOnPlateau will never grow, for there is no validation in this fit: see GrowEvery")
        # a checkpoint at the same moment comes after the growth, and without DDP a stop, too
        trainer.callbacks = sorted(trainer.callbacks, key=_place)
        if trainer.global_step == 0:
            self._record = _Record()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make good a growth that was still waiting when the run was stopped."""
        if self._record.owed:
            self.grow(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Grow when patience is at its end."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        at_its_limit = self.limit is not None and self._record.grown >= self.limit
        if not at_its_limit and self._plateau_after(self._metric(trainer)):
            self._record.owed = True
            self.grow(pl_module)

    def on_growth(self, trainer: Trainer, pl_module: LightningModule, event: GrowthEvent) -> None:
        """What was asked for has been done."""
        if (event.method, event.arguments) == (self.growth, self.complete(pl_module)):
            self._record.owed = False

    def _metric(self, trainer: Trainer) -> float:
        """The metric of the first process, the same in all."""
        metrics = trainer.callback_metrics
        value = float(metrics[self.monitor]) if self.monitor in metrics else None
        decisive: float | None = trainer.strategy.broadcast(value)
        if decisive is None:
            raise MisconfigurationException(
                f"GrowOnPlateau monitors {self.monitor!r}, but the metrics after validation are {sorted(metrics)}: log "
                "it in the module, or monitor one of these."
            )
        return decisive

    def _plateau_after(self, value: float) -> bool:
        """Count one validation in; True if it was one too many."""
        record = self._record
        if self._improves(value):
            record.best, record.waited = value, 0
        elif not record.cooling:
            record.waited += 1
        record.cooling = max(0, record.cooling - 1)
        if record.waited < self.patience:
            return False
        record.waited, record.cooling, record.grown = 0, self.cooldown, record.grown + 1
        return True

    def _improves(self, value: float) -> bool:
        best = self._record.best
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta


def _place(callback: Callback) -> int:
    """Where a callback stands: the driver in front, if it is there yet, then the triggers."""
    return 0 if isinstance(callback, Driver) else 1 if isinstance(callback, GrowOnPlateau) else 2
