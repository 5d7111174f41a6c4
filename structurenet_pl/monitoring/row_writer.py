"""Writes rows of scalars to the loggers: rows of learning rates before a step, rows of norms after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from structurenet_pl.learning_rates.norms import Entries, StepNorms
from structurenet_pl.lightning import Trainer
from structurenet_pl.monitoring.newborns import Newborns, NewbornSide
from structurenet_pl.monitoring.sparse_curves import SparseCurves, write_points
from structurenet_pl.monitoring.tensorboard import RANGE_TAGS, tensorboard_loggers
from structurenet_pl.optim.wrappers import hookable_optimizers
from structurenet_pl.structure.partition import Structure


class RowWriter:
    """Decides at which steps a row is written, and writes each tag at most once per step.

    A row is due every ``log_every_n_steps`` steps of the Trainer, and at the next step of each optimizer that a row was
    requested for.
    """

    def __init__(self) -> None:
        self.requested: set[int] = set()  # numbers of the optimizers whose next step is logged in any case
        self._last_written: dict[str, int] = {}  # step by tag
        self._curves = SparseCurves(RANGE_TAGS)

    def begin_fit(self) -> None:
        """Allow all steps again: another fit may have gone further than the checkpoint that this one resumes."""
        self._last_written = {}  # not cleared: a copy of the callback may share it
        self._curves = SparseCurves(RANGE_TAGS)

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
        if not new or not trainer.is_global_zero:
            return
        sparse = tensorboard_loggers(trainer)
        if sparse:
            points = self._curves.add(new, step)
        for logger in trainer.loggers:
            if logger in sparse:
                write_points(logger, points)
            else:
                logger.log_metrics(dict(new), step=step)

    def end_curves(self, trainer: Trainer) -> None:
        """Bring the curves in TensorBoard up to date, and have the next row written whole.

        If that is done whenever a checkpoint is saved, a resumed run writes what it would have written.
        """
        points = self._curves.end()
        for logger in tensorboard_loggers(trainer):
            write_points(logger, points)


class NormWriter:
    """Measures norms of gradients and updates around an optimizer step, and writes them as a row.

    Args:
        rows: The writer of the row.
        newborns: The newborns whose shares belong to the row.
    """

    def __init__(self, rows: RowWriter, newborns: Newborns) -> None:
        self._rows = rows
        self._newborns = newborns
        self._begun: tuple[Trainer, int, StepNorms[str | NewbornSide]] | None = None
        self._handles: list[RemovableHandle] = []

    def register_hooks(self, optimizers: Iterable[Optimizer]) -> None:
        """Have the end of each optimizer step reported."""
        hookable = [hookable_optimizers(optimizer)[0] for optimizer in optimizers]
        self._handles = [optimizer.register_step_post_hook(self._after_step) for optimizer in hookable]

    def remove_hooks(self) -> None:
        """Remove the hooks from the optimizers."""
        while self._handles:
            self._handles.pop().remove()

    def begin(self, trainer: Trainer, step: int, tensors: Mapping[str, Sequence[Tensor]], structure: Structure) -> None:
        """Measure before the update.

        Args:
            trainer: The Trainer, in a fit.
            step: The step that the row will stand at.
            tensors: The tensors of each component or part that the optimizer holds.
            structure: The components of the network.
        """
        parts: dict[str | NewbornSide, list[Entries]] = {name: list(map(Entries, of)) for name, of in tensors.items()}
        held = {tensor for several in tensors.values() for tensor in several}
        self._begun = trainer, step, StepNorms(parts | self._newborns.sides(structure, held))

    def discard(self) -> None:
        """Drop a measurement whose update never came, because a gradient scaler skipped that step."""
        self._begun = None

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # a compiled step must not trace the loggers
        if self._begun is None or torch.compiler.is_compiling():
            return
        (trainer, step, measured), self._begun = self._begun, None
        norms = measured.read()
        row = {f"norms/grad/{part}": norm.grad for part, norm in norms.items() if isinstance(part, str)}
        # a part whose weights were all 0 has no ratio
        row |= {
            f"norms/update_ratio/{part}": norm.update / norm.weight
            for part, norm in norms.items()
            if isinstance(part, str) and norm.weight
        }
        sides = {side: norm for side, norm in norms.items() if not isinstance(side, str)}
        self._rows.write(trainer, row | self._newborns.add(sides), step)
        self._newborns.judge(trainer)
