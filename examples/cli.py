"""Train a growing network from the command line; a YAML file configures the module and all callbacks.

    python examples/cli.py fit --config examples/config.yaml
    python examples/cli.py fit --config examples/config.yaml --print_config
    python examples/cli.py fit --help

The YAML file names callbacks by class path, ``structurenet_pl.Warmup``, or by class name alone, ``Warmup``.
"""

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from quiet import quiet
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from structurenet_pl import GrowableModule, growth


class DeepeningNet(GrowableModule):
    """A multilayer perceptron that can grow deeper.

    Args:
        width: Number of units in each hidden layer.
        depth: Number of hidden layers at the start.
    """

    def __init__(self, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Linear(64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def configure_components(self) -> dict[str, str]:
        return {"head": "head", "*": "scaffold"}

    @growth(role="new")
    def deepen(self) -> None:
        """Append a hidden layer; it starts at zero beside a shortcut, so the output does not change at first."""
        layer = nn.Linear(self.width, self.width)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self.hidden.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in self.hidden:
            x = x + layer(x.relu())
        return self.head(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_accuracy", (self(x).argmax(1) == y).float().mean(), prog_bar=True)


class Digits(LightningDataModule):
    """The digits of scikit-learn.

    Args:
        batch_size: Number of images in a batch.
        seed: Random seed of the split into training and validation data.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
        self.train, self.val = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(seed))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size)


class CLI(LightningCLI):
    """Says at the end of a fit how well the network does, and where to look."""

    def after_fit(self) -> None:
        print(f"Validation accuracy: {self.trainer.callback_metrics['val_accuracy']:.3f}")
        print(f"Metrics, learning rates and this configuration: {self.trainer.log_dir}")


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    CLI(DeepeningNet, Digits)
