"""Measure what growth does to a network: shock, recovery and drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from examples.evidence.data import Part
from examples.evidence.training import loss

RECOVERED = 1.02
"""A network has recovered when its loss is at most this much times the loss before growth."""

SHOCK_STEPS = 50
"""Steps after growth in which the peak of the loss is looked for."""

AFTER_RANDOM_LAYER = 3
"""Step after which the peak is looked for in this case: a random layer raises the loss at once, whatever the lr."""


@dataclass
class Phase:
    """The time from one growth to the next one, or to the end."""

    before: float
    """Loss before growth."""
    old: dict[str, Tensor]
    """The old entries of all weights, right after growth."""
    losses: dict[int, float] = field(default_factory=dict)
    """Loss by number of steps since growth."""
    length: int = 0
    """Steps of the phase so far."""
    drift: float = 0.0
    """Relative distance of the old weights at the end of the phase."""

    def peak(self, after: int = 0) -> float:
        """Largest rise of the loss, after the given step."""
        return max(value for step, value in self.losses.items() if after < step <= SHOCK_STEPS) - self.before

    def recovery(self, after: int = 0) -> tuple[int, bool]:
        """Steps from growth to the first loss, from the peak on, that counts as recovered; and whether there is one.

        Without one, the steps are those of the whole phase.
        """
        worst = max((value, step) for step, value in self.losses.items() if after < step <= SHOCK_STEPS)[1]
        for step, value in self.losses.items():
            if step >= worst and value <= RECOVERED * self.before:
                return step, True
        return self.length, False


class GrowthProbe(Callback):
    """Record a ``Phase`` for each growth; goes before the triggers in the list of callbacks.

    Args:
        part: Data on whose first 400 images the loss is measured, in each of the first 30 steps after growth and in
            every fifth later.
    """

    MEASURES: ClassVar[Mapping[str, str]] = {
        "drift": "relative distance of all old weights from their values at growth, at the next growth or at the end",
        "recovery": f"steps from growth to the first validation loss, from its peak on, of at most {RECOVERED} times "
        "that before growth; without one, all steps up to the next growth or the end",
        "recovered": "share of growths after which there was such a loss",
        "peak": f"largest rise of the validation loss in the first {SHOCK_STEPS} steps after growth; not in the first "
        f"{AFTER_RANDOM_LAYER} after a random layer, which raises the loss at once, whatever the lr",
    }
    """What ``measures`` returns, and what it means, as the report prints it."""

    def __init__(self, part: Part) -> None:
        self.part = part.first(400)
        self.phases: list[Phase] = []
        self._before = float("nan")
        self._shapes: dict[str, torch.Size] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the loss and the shapes before a growth."""
        if len(pl_module.growth_log) > len(self.phases):
            raise ValueError("the network has grown already: GrowthProbe comes before GrowEvery in the callbacks")
        self._before = loss(pl_module, self.part)
        self._shapes = {name: weight.shape for name, weight in pl_module.named_parameters()}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Sequence, batch_idx: int
    ) -> None:
        if len(pl_module.growth_log) > len(self.phases):
            self._end_phase(pl_module)
            now = dict(pl_module.named_parameters())
            old = {name: _corner(now[name], shape).detach().clone() for name, shape in self._shapes.items()}
            self.phases.append(Phase(self._before, old, {0: loss(pl_module, self.part)}))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Sequence, batch_idx: int
    ) -> None:
        if self.phases:
            phase = self.phases[-1]
            phase.length += 1
            if phase.length <= 30 or phase.length % 5 == 0:
                phase.losses[phase.length] = loss(pl_module, self.part)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_phase(pl_module)

    @torch.no_grad()
    def _end_phase(self, module: LightningModule) -> None:
        if self.phases:
            phase, now = self.phases[-1], dict(module.named_parameters())
            moved = sum(
                (_corner(now[name], weight.shape) - weight).square().sum() for name, weight in phase.old.items()
            )
            phase.drift = (moved / sum(weight.square().sum() for weight in phase.old.values())).sqrt().item()

    def measures(self, after: int = 0) -> dict[str, float]:
        """``MEASURES``, as means over all growths.

        Args:
            after: The peak is looked for after this step.
        """
        recoveries = [phase.recovery(after) for phase in self.phases]
        return {
            "peak": fmean(phase.peak(after) for phase in self.phases),
            "recovery": fmean(steps for steps, _ in recoveries),
            "recovered": fmean(came_back for _, came_back in recoveries),
            "drift": fmean(phase.drift for phase in self.phases),
        }


def _corner(weight: Tensor, shape: torch.Size) -> Tensor:
    """The old entries of a tensor, which come first in each dimension."""
    return weight[tuple(slice(size) for size in shape)]
