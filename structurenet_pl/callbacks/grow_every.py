"""GrowEvery: growth at regular times."""

from collections.abc import Mapping
from typing import Any, Literal

from structurenet_pl.callbacks.trigger import Trigger
from structurenet_pl.lightning import LightningModule, Trainer
from structurenet_pl.structure.events import check_count, check_unit


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
