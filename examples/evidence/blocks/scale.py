"""Layers on wrong scales: what LARS does for them, and what it does where nothing is wrong."""

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import Callback

from examples.evidence.data import split
from examples.evidence.experiment import Arm, Block, Claim, Trial, better
from examples.evidence.nets import Net
from examples.evidence.training import accuracy, fit
from structurenet_pl import LARSScaler

METHODS: Mapping[str, tuple[type[torch.optim.Optimizer], dict[str, float], Callable[[], list[Callback]]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}, list),
    "lars": (torch.optim.SGD, {"momentum": 0.9}, lambda: [LARSScaler(TRUST, mode="grad")]),
    "lars by component": (torch.optim.SGD, {"momentum": 0.9}, lambda: [LARSScaler(TRUST)]),
    "lars, default trust": (torch.optim.SGD, {"momentum": 0.9}, lambda: [LARSScaler(mode="grad")]),
    "adam": (torch.optim.Adam, {}, list),
}

TRUST = 0.02
"""Biases are not scaled and get the base lr itself. With the default, 0.001, weights need one that is too high for
biases; so we try both."""

LRS = {
    "sgd": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
    "lars": (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    "lars by component": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
    "lars, default trust": (0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
    "adam": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128),
}


@torch.no_grad()
def misscale(net: Net, scale: float) -> None:
    """Multiply the weights of every other layer by ``scale`` and divide those of the next one: the function stays.

    ``relu(s * x) = s * relu(x)``, and so for max-pooling and the mean over positions.
    """
    layers = [net.stem[0], *(block[0] for block in net.blocks), net.head]
    for first, second in zip(layers[::2], layers[1::2], strict=True):
        first.weight *= scale
        first.bias *= scale
        second.weight /= scale


def train(trial: Trial) -> Mapping[str, float]:
    """Train a network whose layers are mis-scaled."""
    dataset, kind, *large = trial.setting.split(maxsplit=2)
    method, _, scale = trial.arm.partition(" x")
    optimizer, options, callbacks = METHODS[method]
    batch_size, epochs = (512, 20) if large else (64, {"mlp": 10, "cnn": 16}[kind])
    data = split(dataset, trial.seed)
    net = Net(kind, data.side, trial.lr, "cosine", optimizer=optimizer, **options)
    misscale(net, float(scale or 1))
    fit(net, data.train, epochs, callbacks(), batch_size)
    return {"val": accuracy(net, data.val), "accuracy": accuracy(net, data.test)}


BLOCK = Block(
    question="The layers of a network are multiplied by 1 to 8 and divided by it in turn, which changes no output. "
    "Learning rates are chosen at scale 1 and kept. How much accuracy does each optimizer lose? And does LARS help "
    "where nothing is wrong, or with large batches?",
    train=train,
    settings=("digits mlp", "digits cnn", "mnist mlp large batches"),
    arms={method: Arm(lrs) for method, lrs in LRS.items()}
    | {"sgd x4": Arm(lr_of="sgd")}
    | {f"{method} x8": Arm(lr_of=method) for method in ("sgd", "lars", "lars by component", "adam")},
    claims=(
        Claim("SGD loses more than .3 at scale 8", "accuracy", "sgd x8", "sgd", below=-0.3),
        Claim("LARS loses less than .02 at scale 8", "accuracy", "lars x8", "lars", above=-0.02),
        Claim("so does LARS by component", "accuracy", "lars by component x8", "lars by component", above=-0.02),
        Claim("so does Adam", "accuracy", "adam x8", "adam", above=-0.02),
        better("LARS is better than SGD at scale 1", "lars", "sgd"),
    ),
    measures={"accuracy": "test accuracy at the end"},
)
