"""What three experiments share: networks that grow in width, and how their training is measured."""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from examples.evidence.data import Data, Part
from examples.evidence.nets import Kind, Net, Schedule, init_he
from examples.evidence.training import accuracy, fit
from structurenet_pl import growth, widen

RESCALED_PAIRS: Mapping[str, Any] = {"scheme": "pair", "rescale": True}
"""Arguments of ``wider``: new units in pairs that cancel, and old weights at the size that the new width asks for."""

WIDTHS: Mapping[Kind, tuple[int, ...]] = {"mlp": (24, 34, 48, 68, 96), "cnn": (4, 6, 8, 12, 16)}
"""Units or channels of a network that doubles its width twice, in four steps."""

BATCH_SIZES: Mapping[Kind, int] = {"mlp": 128, "cnn": 64}
"""The MLP needs fewer steps."""

TARGETS = {"digits": 0.95, "mnist": 0.9, "fashion": 0.8}
"""Validation accuracy for ``work_to_target``."""

MEASURES = {
    "accuracy": "test accuracy at the end",
    "parameters": "number of parameters at the end",
    "work": "multiply-adds of all training steps, in 10^9",
    "work_to_target": "the same up to the first epoch with a validation accuracy of "
    + ", ".join(f"{target} ({name})" for name, target in TARGETS.items())
    + "; censored at the end of the fit",
    "seconds": "CPU time of the fit, with that of Lightning",
}


class HeInit:
    """A layer that is initialised for ReLU, so that ``widen`` draws new units like those of a fresh network."""

    def reset_parameters(self) -> None:
        init_he(self)


class HeLinear(HeInit, nn.Linear):
    """A Linear initialised for ReLU."""


class HeConv(HeInit, nn.Conv2d):
    """A convolution initialised for ReLU."""


class WideningNet(Net):
    """The network of ``nets``, which gets wider in all layers at once.

    Args:
        widths: Units or channels of each layer, before any growth and after each; one alone for a static network.
    """

    def __init__(
        self,
        kind: Kind,
        side: int,
        lr: float,
        schedule: Schedule,
        widths: Sequence[int],
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        **options: float,
    ) -> None:
        super().__init__(kind, side, lr, schedule, widths[0], optimizer, **options)
        self.widths = widths
        inputs = side**2 if kind == "mlp" else 1
        self.stem[0] = self._he(inputs)

    def layer(self) -> HeLinear | HeConv:
        return self._he(self.width)

    def _he(self, inputs: int) -> HeLinear | HeConv:
        return HeLinear(inputs, self.width) if self.kind == "mlp" else HeConv(inputs, self.width, 3, padding=1)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Bound the norm of the gradient: at large lrs, single runs would die, and means would tell little else."""
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")

    @growth(role="new")
    def wider(self, scheme: str = "pair", rescale: bool = False) -> None:
        """Widen all layers to the next of the widths; the function stays, but for the noise on copies."""
        self.width = self.widths[self.widths.index(self.width) + 1]
        for layer, following in pairwise([self.stem[0], *(block[0] for block in self.blocks), self.head]):
            noise = 0.01 if scheme == "copy" else 0.0
            widen(layer, following, self.width, noise=noise, scheme=scheme, rescale=rescale)


class WorkAndTarget(Callback):
    """Count the work of a fit, and note what it was at the target accuracy; growth has to be at the end of an epoch."""

    def __init__(self, part: Part, target: float) -> None:
        self.part, self.target = part, target
        self.work = self._work_per_image = 0
        self.work_to_target: int | None = None
        self.growths: list[int] = []
        """Epochs after which the network has grown."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the multiply-adds of one image in the present network, forward and backward."""
        self.growths += [trainer.current_epoch] * (len(pl_module.growth_log) - len(self.growths))
        images, labels = self.part.first(1)
        with FlopCounterMode(display=False) as counter:
            # the trainer's own gradients stay as they are
            torch.autograd.grad(cross_entropy(pl_module(images), labels), list(pl_module.parameters()))
        self._work_per_image = counter.get_total_flops() // 2

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Sequence, batch_idx: int
    ) -> None:
        self.work += self._work_per_image * len(batch[1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.work_to_target is None and accuracy(pl_module, self.part) >= self.target:
            self.work_to_target = self.work


def train_and_measure(
    net: WideningNet, name: str, data: Data, epochs: int, callbacks: Iterable[Callback] = ()
) -> tuple[Mapping[str, float], list[int]]:
    """Train a network on a data set, given by name and split; return the measures, and the epochs of its growths."""
    counted = WorkAndTarget(data.val, TARGETS[name])
    start = time.process_time()
    fit(net, data.train, epochs, [counted, *callbacks], BATCH_SIZES[net.kind])
    seconds = time.process_time() - start
    to_target = counted.work if counted.work_to_target is None else counted.work_to_target
    return {
        "val": accuracy(net, data.val),
        "accuracy": accuracy(net, data.test),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "work": counted.work / 1e9,
        "work_to_target": to_target / 1e9,
        "seconds": seconds,
    }, counted.growths
