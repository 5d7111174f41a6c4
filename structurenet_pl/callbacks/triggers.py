"""When to grow."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from structurenet_pl.events import check_unit
from structurenet_pl.grown import requested
from structurenet_pl.lightning import Callback, LightningModule, Trainer
from structurenet_pl.methods import GrowthRequest


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise a ``ValueError`` unless ``value`` is a whole number that is not below ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


class Trigger(Callback):
    """Calls a growth method of the module by name; what is derived from it says when."""

    by_clock = False
    """Whether the clock alone says when, so that under DDP the processes need not agree first."""

    def __init__(self, growth: str, limit: int | None, arguments: Mapping[str, Any]) -> None:
        if limit is not None:
            check_count("limit", limit)
        if not isinstance(arguments, Mapping):
            raise ValueError(f"arguments must be given by name, as in {{'at': 2}}, got {arguments!r}")
        self.growth = growth
        self.limit = limit
        self.arguments = dict(arguments)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look the growth method up before anything is trained."""
        if stage == "fit":
            self.complete(pl_module)

    def complete(self, pl_module: LightningModule) -> dict[str, Any]:
        """The arguments as the log has them, with defaults."""
        return dict(requested(pl_module, self.growth, self.arguments).arguments)

    def grow(self, pl_module: LightningModule) -> None:
        """Ask for the growth."""
        pl_module.request_growth(self.request(pl_module))

    def request(self, pl_module: LightningModule) -> GrowthRequest:
        """What it asks for."""
        request = requested(pl_module, self.growth, self.arguments)
        return replace(request, by_clock=self.by_clock, asked_by=type(self).__name__)


class GrowEvery(Trigger):
    """Call a growth method of the module at regular times.

    The clock alone decides, so a resumed run grows exactly as one that never stopped. For the same reason a growth that
    is due when the last epoch ends is carried out, too, although what it bears has no time to train: set ``limit``. And
    for the same reason it may grow in the middle of an epoch under DDP: give every process the same trigger.

    Args:
        growth: Name of the growth method.
        every: Number of epochs or steps from one growth to the next, and to the first.
        unit: ``"epoch"``: at the end of the epoch; ``"step"``: after the optimizer step.
        limit: Number of growths after which it stops, by the clock of the run; None for no end.
        arguments: What the method is called with, plain values by name.

    Raises:
        ValueError: If ``every`` or ``limit`` is not a positive whole number, or ``unit`` is unknown.
        AttributeError: At the start of the fit, if the module has no growth method of this name.
        TypeError: At the start of the fit, if the arguments do not fit the method.

    Example:
        >>> from structurenet_pl import GrowEvery
        >>> trigger = GrowEvery("add_patch", every=10, limit=3, arguments={"at": 2})
    """

    by_clock = True

    def __init__(
        self,
        growth: str,
        every: int,
        unit: Literal["epoch", "step"] = "epoch",
        limit: int | None = None,
        arguments: Mapping[str, Any] = {},
    ) -> None:
        super().__init__(growth, limit, arguments)
        check_count("every", every)
        check_unit(unit, ("epoch", "step"))
        self.every = every
        self.unit = unit
        self._step_before = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember where the batch began: a batch may take no step, or several."""
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Grow when the batch has reached another multiple of ``every`` steps."""
        if self.unit == "step":
            self._grow_if_due(pl_module, self._step_before, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Grow when the epoch is another multiple of ``every``."""
        if self.unit == "epoch":
            self._grow_if_due(pl_module, trainer.current_epoch, trainer.current_epoch + 1)

    def due(self, before: int, after: int) -> int:
        """How many growths are due when time moves on, in the trigger's unit.

        Example:
            >>> GrowEvery("add_patch", every=10, limit=3).due(before=9, after=20)
            2
        """
        counts = range(before // self.every + 1, after // self.every + 1)
        return len(counts) if self.limit is None else len([count for count in counts if count <= self.limit])

    def _grow_if_due(self, pl_module: LightningModule, before: int, after: int) -> None:
        for _ in range(self.due(before, after)):
            self.grow(pl_module)
