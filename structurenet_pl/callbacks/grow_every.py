"""GrowEvery: call a growth method at regular times."""

from collections.abc import Mapping
from typing import Any, Literal

from structurenet_pl.callbacks.growth_trigger import GrowthTrigger
from structurenet_pl.lightning import LightningModule, Trainer, rank_zero_info
from structurenet_pl.structure.arguments import check_at_least


class GrowEvery(GrowthTrigger):
    """Call a growth method of the module every so many epochs or steps.

    The clock alone decides. This has three consequences:

    - A resumed run grows exactly as an uninterrupted run.
    - A growth that is due at the end of the last epoch is carried out too, although its new components have no time to
      train. Set ``limit`` to avoid this.
    - Under DDP the module may grow in the middle of an epoch. Give every process the same trigger.

    Args:
        growth: Name of the growth method.
        every: Interval between two growths, and before the first one, in ``unit``.
        unit: ``"epoch"`` grows at the end of an epoch, ``"step"`` after an optimizer step.
        limit: Number of growths after which the trigger stops, counted by the clock from the start of the run; None for
            no limit.
        arguments: Arguments of the growth method, plain values by name.

    Raises:
        ValueError: If ``every`` or ``limit`` is not a positive whole number, or ``unit`` is unknown.
        AttributeError: At the start of the fit, if the module has no growth method of this name.
        TypeError: At the start of the fit, if the arguments do not fit the growth method.

    Example:
        >>> from structurenet_pl import GrowEvery
        >>> trigger = GrowEvery("add_patch", every=10, limit=3, arguments={"at": 2})
        >>> trigger.due(before=29, after=30), trigger.due(before=39, after=40)
        (1, 0)
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
        check_at_least(1, {"every": every})
        self.every = every
        self.unit = unit
        self._step_at_batch_start = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the step at which the batch starts."""
        # A batch takes no step under accumulation, and several steps with several optimizers.
        self._step_at_batch_start = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Grow if the batch has reached a multiple of ``every`` steps."""
        if self.unit == "step":
            self._grow_if_due(pl_module, self._step_at_batch_start, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Grow if the number of finished epochs is a multiple of ``every``."""
        if self.unit == "epoch":  # in this hook, current_epoch still is the index of the epoch that ends
            self._grow_if_due(pl_module, trainer.current_epoch, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run was too short for the first growth."""
        time = trainer.global_step if self.unit == "step" else trainer.current_epoch
        if not self.due(0, time) and not trainer.fast_dev_run:
            rank_zero_info(
                f"structurenet_pl: GrowEvery({self.growth!r}) has not grown: its first growth is due at {self.unit} "
                f"{self.every}, and the run ended at {time}. Train longer, or lower `every`."
            )

    def due(self, before: int, after: int) -> int:
        """Return how many growths fall due while the time moves from ``before`` to ``after``, both in ``unit``.

        Example:
            >>> GrowEvery("add_patch", every=10, limit=3).due(before=9, after=20)
            2
        """
        numbers = range(before // self.every + 1, after // self.every + 1)  # the first growth has number 1
        return len(numbers) if self.limit is None else len([number for number in numbers if number <= self.limit])

    def _grow_if_due(self, pl_module: LightningModule, before: int, after: int) -> None:
        for _ in range(self.due(before, after)):
            self.grow(pl_module)
