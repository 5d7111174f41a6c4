"""Freeze a small CNN layer by layer on a schedule that is known in advance: FreezeOut.

`FreezeOut` is a user-defined factor. The lr of each layer falls along a cosine of its own, which ends earlier for
layers near the input; from there on the layer is frozen, and the backward pass skips it:

    python examples/recipes/freeze_out.py

The script prints the work that freezing should save by the paper's estimate, the work that it saved, and the test
accuracy with and without freezing. The estimate takes the backward pass to cost as much as the forward pass.

Brock et al., FreezeOut: Accelerate Training by Progressively Freezing Layers, 2017, https://arxiv.org/abs/1706.04983
"""

import argparse
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from structurenet_pl import Component, LRFactor, Moment
from structurenet_pl.engine.driver import Driver

BATCH = 64
POWERS = {"linear": 1, "squared": 2, "cubic": 3}


class FreezeOut(LRFactor):
    """Anneal the lr of each depth along a cosine of its own, and freeze the depth at its end.

    With ``p = step / steps`` the factor of depth ``i`` of ``n`` is ``(1 + cos(pi * p / t)) / 2`` for ``p < t``, then 0;
    ``t = (t_0 + (1 - t_0) * i / (n - 1)) ** power``. Give the optimizer a constant lr.

    Args:
        steps: Optimizer steps of the whole run.
        t_0: Share of the run after which the first depth is frozen, before the power; in (0, 1].
        how: Power: ``"linear"`` 1, ``"squared"`` 2, ``"cubic"`` 3.
        scale_lr: Whether to divide the factor by ``t``, so that all depths travel equally far.
        where: Roles or name patterns of the components that the factor acts on; None for all components.
    """

    freezes = True

    def __init__(
        self,
        steps: int,
        t_0: float = 0.5,
        how: Literal["linear", "squared", "cubic"] = "cubic",
        scale_lr: bool = True,
        where: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(where)
        if steps < 1 or not 0 < t_0 <= 1:
            raise ValueError(f"expected steps >= 1 and t_0 in (0, 1], got {steps} and {t_0}")
        self.steps, self.t_0, self.how, self.scale_lr = steps, t_0, how, scale_lr

    def factor(self, component: Component, now: Moment) -> float:
        end = self.end(*now.rank(component))
        # after the last step the clock stands at steps, where the last depth, too, would be frozen
        progress = min(now.clock.step, self.steps - 1) / self.steps
        if progress >= end:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * progress / end)) / (end if self.scale_lr else 1.0)

    def end(self, index: int, n: int) -> float:
        """Share of the run after which a depth is frozen."""
        return (self.t_0 + (1 - self.t_0) * index / max(1, n - 1)) ** POWERS[self.how]

    def speedup(self, costs: Sequence[float]) -> float:
        """Share of all work that freezing saves, if the backward pass costs as much as the forward pass.

        Args:
            costs: Work of each depth in the forward pass, in any unit.
        """
        backward = sum(cost * self.end(index, len(costs)) for index, cost in enumerate(costs))
        return 1 - (sum(costs) + backward) / (2 * sum(costs))


class Net(LightningModule):
    """Four convolutional blocks and a linear head."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.saved: list[float] = []  # share of the work that freezing saves, by step
        self.blocks = nn.Sequential()
        for inputs in (1, width, width, width):
            self.blocks.append(nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()))
        self.head = nn.Linear(16 * width, 10)

    @property
    def costs(self) -> list[float]:
        """Multiplications of each block and of the head for one image of 8 x 8 pixels."""
        return [64.0 * block[0].weight.numel() for block in self.blocks] + [float(self.head.weight.numel())]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.max_pool2d(self.blocks(x), 2).flatten(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        if driver := Driver.of(self.trainer):
            self.saved.append(driver.frozen.work or 0.0)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9)


def train(
    callbacks: list[LRFactor], args: argparse.Namespace, train_data: Dataset, test_data: Dataset
) -> tuple[float, Net]:
    """Train, and return the accuracy on test data, and the network."""
    seed_everything(args.seed, verbose=False)
    net = Net()
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, DataLoader(train_data, BATCH, shuffle=True))
    return trainer.test(net, DataLoader(test_data, 512), verbose=False)[0]["accuracy"], net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="epochs (default 12)")
    parser.add_argument("--t_0", type=float, default=0.5, help="where the first layer freezes (default 0.5)")
    parser.add_argument("--how", choices=POWERS, default="cubic", help="spacing of the layers (default cubic)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    args = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the tiny images need none
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6 calls an API that torch 2.13 deprecates
    warnings.filterwarnings("ignore", message=".*number of training batches.*")  # there is no logger
    torch.set_num_threads(1)

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
    train_data, test_data = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(args.seed))
    free, _ = train([], args, train_data, test_data)
    freeze = FreezeOut(args.epochs * -(-len(train_data) // BATCH), args.t_0, args.how)
    accuracy, net = train([freeze], args, train_data, test_data)
    saved = sum(net.saved) / len(net.saved)
    print(f"Test accuracy: with FreezeOut {accuracy:.3f}, without {free:.3f}")
    print(
        f"Work saved if the backward pass costs as much as the forward pass: {freeze.speedup(net.costs):.0%} (estimate)"
    )
    print(f"Work saved if it costs twice as much, as in most layers: {saved:.0%} (counted in the run)")


if __name__ == "__main__":
    main()
