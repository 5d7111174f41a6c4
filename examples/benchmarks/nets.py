"""The networks that are measured, and the callbacks on both sides."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from structurenet_pl import (
    AgeDecay,
    DensityScaler,
    DepthDecay,
    GrowthMixin,
    GrowthResponder,
    LRFactor,
    ProgressiveFreeze,
    RoleLR,
    SedimentaryDecay,
    Warmup,
    growth,
    widen,
)


class Idle(torch.optim.SGD):
    """An optimizer that does nothing: what remains of a step is Lightning, and what is measured."""

    def step(self, closure: Any = None) -> Any:
        return closure() if closure else None


class Chain(LightningModule):
    """Equal layers one after another; each is a component."""

    def __init__(self, layers: int, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.body = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = batch[0]
        for layer in self.body:
            x = torch.tanh(layer(x))
        return x.square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)


class GrowingChain(GrowthMixin, Chain):
    """The same, growable."""

    @growth()
    def add(self) -> None:
        self.body.append(nn.Linear(self.width, self.width))

    @growth()
    def wider(self, more: int) -> None:
        widen(self.body[0], self.body[1], self.body[0].weight.shape[0] + more)


class Still(LightningModule):
    """Layers of which a step computes next to nothing, with an optimizer that does nothing.

    Args:
        layers: Number of layers.
        groups: Whether each layer has a param group of its own, as in a project that has rates by layer.
        cosine: Whether a cosine schedule moves the base lr at each step.
    """

    def __init__(self, layers: int, groups: bool = False, cosine: bool = False) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(4, 4) for _ in range(layers)])
        self.groups, self.cosine = groups, cosine

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.body[0].weight.square().sum()

    def configure_optimizers(self) -> Any:
        by_layer = [{"params": list(layer.parameters())} for layer in self.body]
        optimizer = Idle(by_layer if self.groups else self.parameters(), lr=0.1)
        if not self.cosine:
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10**6)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class GrowableStill(GrowthMixin, Still):
    """The same, growable."""


class Classifier(LightningModule):
    """A network with a loss, and AdamW or another optimizer."""

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.network, self.settings = network, {"fused": True, **settings}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, **self.settings)


class Residual(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


def resnet(width: int) -> nn.Module:
    """Eight blocks in four stages, as ResNet-18, for small pictures."""
    widths = [width, *(width * 2**stage for stage in (0, 0, 1, 1, 2, 2, 3, 3))]
    blocks = [Residual(one, two, 1 if one == two else 2) for one, two in pairwise(widths)]
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
    return nn.Sequential(stem, *blocks, head)


def transformer(width: int, blocks: int) -> nn.Module:
    """Pre-norm encoder blocks and a head that reads all positions."""
    layers = [
        nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        for _ in range(blocks)
    ]
    return nn.Sequential(*layers, _Mean(), nn.Linear(width, 10))


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def factors(moving: bool = False) -> list[LRFactor]:
    """Eight factors of the package, all of which rest within an epoch, or one of which moves at each step."""
    return [
        Warmup(10**9, unit="step", newborn_only=False) if moving else Warmup(3),
        SedimentaryDecay(),
        GrowthResponder(),
        ProgressiveFreeze([("all", 0, 1.0, 1.0, 0)]),
        AgeDecay(),
        DepthDecay(),
        RoleLR(),
        DensityScaler(),
    ]


def empty_callbacks(number: int) -> Iterator[Callback]:
    return (Callback() for _ in range(number))


class Writer(Callback):
    """Write ready lrs into all groups: the least that any callback for lrs has to do."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.1


class Naive(Callback):
    """What people write in ten lines: a product of six factors for each group, at each step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step, groups = trainer.global_step, trainer.optimizers[0].param_groups
        for number, group in enumerate(groups):
            lr = 0.1 * min(1.0, (step + 1) / 5) * 0.1 ** (1 - number / len(groups))
            lr *= 0.1 if step > 20 else 1.0
            lr *= max(0.1, 0.5 ** (step // 10))
            lr *= {0: 0.5}.get(number, 1.0)
            lr *= 0.9 ** len(trainer.callbacks[:1])
            group["lr"] = lr
