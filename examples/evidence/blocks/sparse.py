"""Sparse networks: a higher lr for sparse layers, and an initialisation that knows how sparse they are."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.nets import Kind, Net
from examples.evidence.training import accuracy, fit
from structurenet_pl import DensityScaler

DENSITIES = (0.2, 0.01, 0.05)
"""Of stem and blocks: strategy 11 halves the lr of the first, doubles that of the second and leaves the third. The
head is dense."""

EPOCHS, WIDTH = {"mlp": 6, "cnn": 12}, {"mlp": 256, "cnn": 32}
IMAGES = 1024
LRS = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128)


class Sparse(Net):
    """``Net`` with a random mask on each layer.

    Args:
        by_fan_in: Whether the variance of the weights is that for the connections that are left (He), and not that for
            a dense layer, with which the signal fades.
    """

    def __init__(self, kind: Kind, side: int, lr: float, by_fan_in: bool) -> None:
        super().__init__(kind, side, lr, width=WIDTH[kind])
        layers = [self.stem[0], *(block[0] for block in self.blocks)]
        for layer, density in zip(layers, DENSITIES, strict=True):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if by_fan_in:
                with torch.no_grad():
                    layer.weight /= density**0.5
            prune.custom_from_mask(layer, "weight", _mask(layer.weight, density))


def _mask(weight: Tensor, density: float) -> Tensor:
    """A share of ones at random places; each row keeps at least one, so that no unit is dead from the start."""
    order = torch.rand_like(weight).flatten(1)
    kept = order.flatten().kthvalue(max(1, round(density * weight.numel()))).values
    return ((order <= kept) | (order == order.min(1, keepdim=True).values)).view_as(weight).float()


def train(trial: Trial) -> Mapping[str, float]:
    """Train a sparse network with Adam, with or without strategy 11."""
    name, kind = trial.setting.split()
    init, method = trial.arm.split(", ")
    data = split(name, trial.seed)
    net = Sparse(kind, data.side, trial.lr, by_fan_in=init == "sparse init")
    fit(net, data.train.first(IMAGES), EPOCHS[kind], [DensityScaler()] if method == "11" else [])
    return {"val": accuracy(net, data.val), "accuracy": accuracy(net, data.test)}


BLOCK = Block(
    question=f"Random masks leave {', '.join(f'{100 * density:g} %' for density in DENSITIES)} of the connections of "
    "three layers. Does a doubled lr of the sparse layer and a halved one of the dense layers help (strategy 11), with "
    "the initialisation of a dense network, and with one by the connections that are left?",
    train=train,
    settings=("digits mlp", "digits cnn", "mnist mlp"),
    arms={
        "dense init, uniform": Arm(LRS),
        "dense init, 11": Arm(LRS),
        "sparse init, uniform": Arm(LRS),
        "sparse init, 11": Arm(LRS),
    },
    claims=(
        better("11 is better than uniform, dense init", "dense init, 11", "dense init, uniform"),
        better("11 is better than uniform, sparse init", "sparse init, 11", "sparse init, uniform"),
        Claim(
            "the right init is better than 11 with the other",
            "accuracy",
            "sparse init, uniform",
            "dense init, 11",
            above=0.0,
        ),
    ),
    measures={"accuracy": "test accuracy at the end"},
)
