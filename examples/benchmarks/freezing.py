"""Rows: how much of the possible saving of step time a freeze leaves unused.

The first k of 12 blocks are frozen. The floor of a row is the ideal: these blocks run under ``torch.no_grad()`` with
norms in eval mode, and only the others are in the optimizer. The reference is a step without frozen blocks. The peers
are Lightning's BackboneFinetuning in its frozen phase, and learning rates of 0.
"""

import math
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn

from examples.benchmarks.harness import Row, Samples, by_round
from examples.benchmarks.turns import Fit, take_turns
from structurenet_pl import ProgressiveFreeze

BLOCKS = 12
BATCH_SHAPES = {"CNN": (16, 32, 16, 16), "MLP": (128, 512), "transformer": (4, 32, 128)}
STEPS = 3  # in each round


def block(network: str, width: int) -> nn.Module:
    """Return one block; its output has the shape of its input."""
    if network == "CNN":
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    if network == "MLP":
        return nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)


class NoGrad(nn.Sequential):
    """Blocks without gradients, with norms in eval mode."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        for layer in self.modules():
            layer.train(not isinstance(layer, nn.BatchNorm2d))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Net(LightningModule):
    """A backbone of the first k blocks, the remaining blocks, and a head."""

    def __init__(self, network: str, k: int, side: str) -> None:
        super().__init__()
        shape = BATCH_SHAPES[network]
        width = shape[-1] if network == "transformer" else shape[1]
        blocks = [block(network, width) for _ in range(BLOCKS)]
        self.backbone = NoGrad(*blocks[:k]) if side == "floor" else nn.Sequential(*blocks[:k])
        self.rest = nn.Sequential(*blocks[k:])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 10))
        self.optimized = [self.rest, self.head] if side in ("floor", "BackboneFinetuning") else [self]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.rest(self.backbone(x))), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([tensor for part in self.optimized for tensor in part.parameters()], lr=1e-4)


def callbacks_of(side: str, k: int) -> Sequence[Callback]:
    if side == "BackboneFinetuning":
        return [BackboneFinetuning(unfreeze_backbone_at_epoch=1)]
    if side not in ("ours", "lr 0"):
        return []
    freeze = ProgressiveFreeze([("frozen", 0, 0.0, 1.0, k)])
    freeze.freezes = side == "ours"  # without it, factor 0 only sets the lr to 0
    return [freeze]


def frozen(network: str, k: int, rounds: int) -> Samples:
    sides = {
        side: Fit(Net(network, k, side), callbacks_of(side, k), BATCH_SHAPES[network])
        for side in ("floor", "reference", "ours", "BackboneFinetuning", "lr 0")
    }
    return {name: by_round(times, rounds) for name, times in take_turns(sides, STEPS * rounds).items()}


ROWS = [
    Row(
        f"freezing-{network}",
        f"saving that ProgressiveFreeze leaves unused, {network}",
        "of 12 blocks frozen",
        {3: None, 6: 0.06, 9: 0.06, 11: None},
        lambda k, rounds, network=network: frozen(network, k, rounds),
    )
    for network in BATCH_SHAPES
]
