"""Writes rows of scalars to the loggers: rows of learning rates before a step, rows of norms after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.learning_rates.norms import StepNorms
from structurenet_pl.lightning import Trainer
from structurenet_pl.optim.wrappers import hookable_optimizers


class RowWriter:
    """Decides at which steps a row is written, and writes each tag at most once per step.

    A row is due every ``log_every_n_steps`` steps of the Trainer, and at the next step of each optimizer that a row was
    requested for.
    """

    def __init__(self) -> None:
        self.requested: set[int] = set()  # numbers of the optimizers whose next step is logged in any case
        self._last_written: dict[str, int] = {}  # step by tag

    def begin_fit(self) -> None:
        """Allow all steps again: another fit may have gone further than the checkpoint that this one resumes."""
        self._last_written = {}  # not cleared: a copy of the callback may share it

    def request_rows(self, trainer: Trainer) -> None:
        """Request a row at the next step of every optimizer."""
        self.requested = set(range(len(trainer.optimizers)))

    def is_due(self, trainer: Trainer, number: int) -> bool:
        """Whether the step that an optimizer is about to take is logged.

        Args:
            trainer: The Trainer, in a fit.
            number: Number of the optimizer.
        """
        every = trainer.log_every_n_steps
        # Lightning's own logging counts these batches too, so that our rows fall on the steps of the user's metrics
        batches: int = trainer.fit_loop.epoch_loop._batches_that_stepped
        return bool(every) and ((batches + 1) % every == 0 or number in self.requested)

    def write(self, trainer: Trainer, row: Mapping[str, float], step: int) -> None:
        """Write the tags that have no value at this step yet.

        With several optimizers, an earlier one may have written values that span all of them; some loggers refuse a
        second value at a step.
        """
        new = {tag: value for tag, value in row.items() if step > self._last_written.get(tag, -1)}
        self._last_written.update(dict.fromkeys(new, step))
        if new and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(dict(new), step=step)


class NormWriter:
    """Measures norms of gradients and updates around an optimizer step, and writes them as a row.

    Args:
        rows: The writer of the row.
    """

    def __init__(self, rows: RowWriter) -> None:
        self._rows = rows
        self._begun: tuple[Trainer, int, StepNorms] | None = None
        self._handles: list[RemovableHandle] = []

    def register_hooks(self, optimizers: Iterable[Optimizer]) -> None:
        """Have the end of each optimizer step reported."""
        hookable = [hookable_optimizers(optimizer)[0] for optimizer in optimizers]
        self._handles = [optimizer.register_step_post_hook(self._after_step) for optimizer in hookable]

    def remove_hooks(self) -> None:
        """Remove the hooks from the optimizers."""
        while self._handles:
            self._handles.pop().remove()

    def begin(self, trainer: Trainer, step: int, tensors: Mapping[str, Sequence[Tensor]]) -> None:
        """Measure before the update.

        Args:
            trainer: The Trainer, in a fit.
            step: The step that the row will stand at.
            tensors: The tensors of each component or part.
        """
        self._begun = trainer, step, StepNorms(tensors)

    def discard(self) -> None:
        """Drop a measurement whose update never came, because a gradient scaler skipped that step."""
        self._begun = None

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # a compiled step must not trace the loggers
        if self._begun is None or torch.compiler.is_compiling():
            return
        (trainer, step, norms), self._begun = self._begun, None
        self._rows.write(trainer, norms.scalars(), step)
