"""Networks and phases for the tests of freezing, and views of the parameters that are frozen."""

import copy

import torch
from torch import nn

from helpers import Net, Plain
from structurenet_pl import growth

REST = [("all", 0, 1.0, 1.0, 0), ("rest", 1, 0.0, 1.0, 2)]  # the first two depths, from the second epoch on
THAW = [*REST, ("thaw", 3, 1.0, 1.0, 0)]


class Normed(Plain):
    """Every kind of norm layer with running statistics, with and without parameters, and dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Sequential(
            nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()),
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, affine=False), nn.Dropout(0.2)),
            nn.Unflatten(1, (4, 2)),
            nn.InstanceNorm1d(4, track_running_stats=True),  # without parameters, it is in no component by itself
            nn.Flatten(),
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
        )


class Grows(Net):
    @growth(depth="at")
    def insert(self, at: int):
        self.patches.append(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)))

    @growth()
    def copy_first(self):
        self.patches.append(copy.deepcopy(self.patches[0]))


def with_gradient(trainer, module):
    return {name for name, tensor in module.named_parameters() if tensor.grad is not None}


def trainable(trainer, module):
    return {name for name, tensor in module.named_parameters() if tensor.requires_grad}


def parameters(module, *parts):
    return {name for name, _ in module.named_parameters() if name.startswith(parts)}


def moved(one, other, *parts):
    return {name for name in one if name.startswith(parts or "") and not torch.equal(one[name], other[name])}


def modes(trainer, module):
    norms = (module.body[0][1], module.body[1][1], module.body[3], module.body[5][1])
    return [layer.training for layer in norms] + [module.body[1][2].training]
