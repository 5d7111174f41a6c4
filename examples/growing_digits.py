"""Train a sparse network on scikit-learn's digits that grows; each part of the network has its own learning rate.

Training starts with a sparse scaffold, which has 5 % of its possible connections. Two dense patches and a neck are
added during training. Three factors act together on top of a cosine schedule: `Warmup`, `SedimentaryDecay` and
`GrowthResponder`. At the end the script prints a table that explains each learning rate, and saves a TensorBoard
log and two pictures: all learning rates over time, and the accuracy at each step and each size of the network.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from quiet import quiet
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from structurenet_pl import (
    GrowableModule,
    GrowEvery,
    GrowthResponder,
    SedimentaryDecay,
    StrataMonitor,
    Warmup,
    explain,
    growth,
    plot_growth,
    plot_strata,
)


class SparseLinear(nn.Linear):
    """A linear layer in which only a fixed, random share of the connections exists."""

    def __init__(self, in_features: int, out_features: int, density: float) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", (torch.rand_like(self.weight) < density).float())
        nn.init.normal_(self.weight, std=(2 / (density * in_features)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


def residual_block(width: int, inner: int) -> nn.Sequential:
    """Return a dense block whose output starts at zero, so that adding the block does not change the network."""
    block = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
    nn.init.zeros_(block[-1].weight)
    return block


class GrowingNet(GrowableModule):
    """A sparse scaffold with a head, which can get patches and necks."""

    def __init__(self, width: int = 128, density: float = 0.05, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = [64, width, width, width]
        self.scaffold = nn.ModuleList(SparseLinear(*pair, density) for pair in pairwise(sizes))
        self.patches = nn.ModuleList()
        self.patched: list[int] = []
        self.necks = nn.ModuleList()
        self.head = nn.Linear(width, 10)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def configure_components(self) -> dict[str, str]:
        return {"scaffold.*": "scaffold", "head": "head"}

    @growth(role="patch", depth="at")
    def add_patch(self, at: int, inner: int = 32) -> None:
        """Add a dense block beside one layer of the scaffold."""
        self.patches.append(residual_block(self.head.in_features, inner))
        self.patched.append(at)

    @growth(role="neck")
    def add_neck(self, inner: int = 64) -> None:
        """Add a block between scaffold and head."""
        self.necks.append(residual_block(self.head.in_features, inner))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.scaffold):
            x = layer(x).relu()
            for at, patch in zip(self.patched, self.patches, strict=True):
                if at == index:
                    x = x + patch(x)
        for neck in self.necks:
            x = x + neck(x)
        return self.head(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._log_accuracy("val_accuracy", batch)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._log_accuracy("test_accuracy", batch)

    def _log_accuracy(self, name: str, batch: list[Tensor]) -> None:
        x, y = batch
        self.accuracy(self(x), y)
        self.log(name, self.accuracy, on_epoch=True, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs, eta_min=1e-5)
        return [optimizer], [schedule]


def loaders(seed: int) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Return the digits, split into training, validation and test data: 60 %, 20 %, 20 %."""
    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    rest, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, val = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=seed)
    parts = [TensorDataset(*(tensor[index] for tensor in data)) for index in (train, val, test)]
    return DataLoader(parts[0], 64, shuffle=True), DataLoader(parts[1], 512), DataLoader(parts[2], 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=40, help="number of epochs, at least 4, so that the network can grow (default 40)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights, mask, data order and data split (default 0)"
    )
    parser.add_argument("--logdir", type=Path, default=Path("logs"), help="folder for logs and picture (default logs)")
    args = parser.parse_args()
    if args.epochs < 4:
        parser.error(f"--epochs must be at least 4, got {args.epochs}")

    quiet()
    torch.set_num_threads(1)
    seed_everything(args.seed, verbose=False)
    train, val, test = loaders(args.seed)
    pause = max(1, args.epochs // 5)

    net = GrowingNet()
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(args.logdir, name="growing_digits"),
        log_every_n_steps=5,
        callbacks=[
            GrowEvery("add_patch", every=pause, limit=1, arguments={"at": 0}),
            GrowEvery("add_patch", every=2 * pause, limit=1, arguments={"at": 1}),
            GrowEvery("add_neck", every=3 * pause, limit=1),
            Warmup(length=max(2, pause // 2)),
            SedimentaryDecay(
                [("active", 0, 1.0), ("sediment", 3 * pause // 2, 0.3), ("geological", 7 * pause // 2, 0.1)],
                where=["scaffold", "neck"],
            ),
            GrowthResponder(recovery=max(1, pause // 4)),
            StrataMonitor(),
        ],
    )
    trainer.fit(net, train, val)
    trainer.test(net, test)

    explain(trainer)
    folder = Path(trainer.logger.log_dir)
    plot_strata(trainer).savefig(folder / "strata.png", dpi=100)
    plot_growth(trainer, "val_accuracy").savefig(folder / "growth.png", dpi=100)
    print(f"Learning rates over time: {folder / 'strata.png'}")
    print(f"Accuracy over time and size: {folder / 'growth.png'}")
    print(f"tensorboard --logdir {args.logdir} --samples_per_plugin scalars=5000,images=200,text=200")


if __name__ == "__main__":
    main()
