"""Freeze a small CNN block by block from the input on, one more block whenever the validation loss stops improving.

`FreezeOnPlateau` is a user-defined factor: 0 for components to freeze, else 1. With `freezes = True` the package
freezes components with factor 0:

    python examples/freeze_on_plateau.py

The callback keeps its counts in its state, so a run that is stopped and resumed freezes the same blocks at the same
epochs as an uninterrupted run:

    python examples/freeze_on_plateau.py --epochs 8
    python examples/freeze_on_plateau.py --resume

The script prints which epochs froze a block, how much work this saved, and the test accuracy with and without freezing.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from epoch_bar import EpochBar
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from structurenet_pl import Component, GrowableModule, LRFactor, Moment
from structurenet_pl.engine.driver import Driver

BLOCKS = 4


class FreezeOnPlateau(LRFactor):
    """Freeze one more depth after each ``patience`` consecutive validations without a new best value."""

    freezes = True
    unit = "epoch"

    def __init__(self, monitor: str, patience: int = 1) -> None:
        super().__init__()
        self.monitor, self.patience = monitor, patience
        # starts: epochs from which one more depth is frozen; saved: share of the work that freezing saved, by epoch
        self.record: dict[str, Any] = {"best": float("inf"), "waited": 0, "starts": [], "saved": []}

    def factor(self, component: Component, now: Moment) -> float:
        index, n = now.rank(component)
        frozen_depths = sum(start <= now.clock.epoch for start in self.record["starts"])
        return 0.0 if index < min(frozen_depths, n - 1) else 1.0  # the head, the last depth, always trains

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value, record = float(trainer.callback_metrics[self.monitor]), self.record
        record["waited"] = 0 if value < record["best"] else record["waited"] + 1
        record["best"] = min(record["best"], value)
        if record["waited"] == self.patience:
            record["waited"] = 0
            record["starts"].append(trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record["saved"].append(Driver.of(trainer).frozen.work or 0.0)

    @property
    def state_key(self) -> str:
        return f"{type(self).__name__}({self.monitor})"  # a Trainer may have two, with different monitors

    def state_dict(self) -> dict[str, Any]:
        return self.record

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.record = state_dict


class Net(GrowableModule):
    """Convolutional blocks and a linear head.

    The base class is GrowableModule because its checkpoints hold the random states. A resumed run then shuffles the
    data as an uninterrupted run does.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        for inputs in (1, *[width] * (BLOCKS - 1)):
            self.blocks.append(nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()))
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.max_pool2d(self.blocks(x), 2).flatten(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        # sync_dist: under DDP all processes must see the same metric, or they would freeze different blocks
        self.log("val_loss", nn.functional.cross_entropy(self(x), y), sync_dist=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def train(title: str, factors: list[LRFactor], folder: Path, args: argparse.Namespace) -> float:
    """Train, and return the accuracy on test data."""
    seed_everything(args.seed, verbose=False)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
    train, val, test = torch.utils.data.random_split(data, [0.6, 0.2, 0.2])
    last = ModelCheckpoint(
        folder, save_top_k=0, save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
    )
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[*factors, last, EpochBar(title)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    net, path = Net(), folder / "last.ckpt"
    trainer.fit(net, DataLoader(train, 64, shuffle=True), DataLoader(val, 512), ckpt_path=path if args.resume else None)
    return trainer.test(net, DataLoader(test, 512), verbose=False)[0]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=20, help="epochs in total, including those of a resumed run (default 20)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights, data order and data split (default 0)"
    )
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="folder for checkpoints (default logs)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoints in the logdir")
    args = parser.parse_args()

    quiet()
    torch.set_num_threads(1)

    freeze, folder = FreezeOnPlateau("val_loss"), args.logdir / "freeze_on_plateau"
    frozen = train("with freezing", [freeze], folder / "frozen", args)
    free = train("without freezing", [], folder / "free", args)
    starts, saved = freeze.record["starts"][:BLOCKS], freeze.record["saved"]  # after these, only the head trains
    if not starts:
        print(f"The validation loss improved in each of {args.epochs} epochs, so no block was frozen.")
    else:
        print(f"The validation loss stopped improving; one more block is frozen from each of the epochs {starts}.")
        for epoch, share in enumerate(saved):
            if epoch == 0 or share != saved[epoch - 1]:
                print(f"  from epoch {epoch:2} on, freezing saves {share:4.0%} of the work of a step")
        print(f"Over the whole run, freezing saved {sum(saved) / len(saved):.0%} of the work.")
    print(f"Test accuracy: with freezing {frozen:.3f}, without freezing {free:.3f}")
    print(f"Checkpoints: {folder}; continue with --resume and more --epochs")


if __name__ == "__main__":
    main()
